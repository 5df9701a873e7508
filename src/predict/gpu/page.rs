//! An exporter's page: what it tells of GPU memory, out of all else that it tells.
//!
//! | exporter | metrics | full is |
//! |---|---|---|
//! | DCGM | `DCGM_FI_DEV_FB_USED`, `DCGM_FI_DEV_FB_FREE`, MiB a GPU or MIG instance | used / (used + free) |
//! | Triton | `nv_gpu_memory_used_bytes`, `nv_gpu_memory_total_bytes`, a GPU | used / total |
//! | vLLM | `vllm:kv_cache_usage_perc`, once called `vllm:gpu_cache_usage_perc`, 0 to 1, an engine | as it is |
//!
//! What the driver keeps for itself (`DCGM_FI_DEV_FB_RESERVED`) is neither used nor to be had: as DCGM's own
//! `DCGM_FI_DEV_FB_USED_PERCENT`, "Used/(Total - Reserved)", has it. Numbers that belong together have the same labels, letter for
//! letter. A line that is none is passed over; nothing is built of the others.
//!
//! **Source:** Prometheus text exposition format 0.0.4; dcgm-exporter's `default-counters.csv`; Triton's `metrics.md`; vLLM's
//! `design/metrics.md`.

use std::{collections::HashMap, str};

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Exporter {
    Dcgm,
    Triton,
}

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// How much of a GPU's memory is something.
    Part(Exporter, Part),
    /// How full it is.
    Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Used,
    Free,
    Total,
}

const METRICS: [(&[u8], Meaning); 6] = [
    (b"DCGM_FI_DEV_FB_USED", Meaning::Part(Exporter::Dcgm, Part::Used)),
    (b"DCGM_FI_DEV_FB_FREE", Meaning::Part(Exporter::Dcgm, Part::Free)),
    (b"nv_gpu_memory_used_bytes", Meaning::Part(Exporter::Triton, Part::Used)),
    (b"nv_gpu_memory_total_bytes", Meaning::Part(Exporter::Triton, Part::Total)),
    (b"vllm:kv_cache_usage_perc", Meaning::Share),
    (b"vllm:gpu_cache_usage_perc", Meaning::Share),
];

/// What was told of one GPU.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    used: Option<f64>,
    free: Option<f64>,
    total: Option<f64>,
}

impl Memory {
    const fn set(&mut self, part: Part, value: f64) {
        match part {
            Part::Used => self.used = Some(value),
            Part::Free => self.free = Some(value),
            Part::Total => self.total = Some(value),
        }
    }

    /// How full it is; `None` where too little was told, or it has no memory of its own.
    fn share(self) -> Option<f64> {
        let used = self.used?;
        let all = self.total.or_else(|| Some(used + self.free?))?;
        (all > 0.0).then(|| used / all)
    }
}

/// How full the fullest GPU of a page is, 0 to 1; `None`: it tells of none.
#[must_use]
pub fn fullest(page: &[u8]) -> Option<f64> {
    let mut gpus = HashMap::<(Exporter, &[u8]), Memory>::new();
    let mut shares = Vec::new();
    for line in page.split(|byte| *byte == b'\n') {
        let Some((meaning, labels, value)) = sample(line) else { continue };
        match meaning {
            Meaning::Part(exporter, part) => gpus.entry((exporter, labels)).or_default().set(part, value),
            Meaning::Share => shares.push(value),
        }
    }
    let told = gpus.into_values().filter_map(Memory::share).chain(shares);
    told.map(|share| share.min(1.0)).reduce(f64::max)
}

/// Meaning, labels and value of a line that tells of GPU memory: `name{labels} value timestamp`, of which the labels and the
/// timestamp may be missing.
fn sample(line: &[u8]) -> Option<(Meaning, &[u8], f64)> {
    let line = line.trim_ascii();
    let (rest, meaning) = METRICS.iter().find_map(|(name, meaning)| Some((line.strip_prefix(*name)?, *meaning)))?;
    // Else it is a longer name.
    if !rest.first().is_some_and(|next| *next == b'{' || next.is_ascii_whitespace()) {
        return None;
    }
    let (labels, rest) = labels(rest.trim_ascii_start())?;
    let value = rest.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    let value: f64 = str::from_utf8(value).ok()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((meaning, labels, value))
}

/// The labels at the beginning, and what is behind them. Within quotes, a brace is text, and a backslash takes the next letter's
/// meaning.
fn labels(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.first() != Some(&b'{') {
        return Some((&[], text));
    }
    let (mut quoted, mut escaped) = (false, false);
    let end = text.iter().position(|byte| {
        let (was_escaped, closes) = (std::mem::take(&mut escaped), *byte == b'}' && !quoted);
        match byte {
            b'\\' if quoted => escaped = !was_escaped,
            b'"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        closes
    })?;
    Some((&text[1..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A node of two GPUs, one of them cut into two MIG instances.
    const DCGM: &str = r#"# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-0d1e9c1a",pci_bus_id="00000000:37:00.0",device="nvidia0",modelName="Tesla T4",Hostname="n1"} 91
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-0d1e9c1a",modelName="Tesla T4",Hostname="n1",err_code="0",err_msg="No Error"} 0
# HELP DCGM_FI_DEV_FB_FREE Framebuffer memory free (in MiB).
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-0d1e9c1a",pci_bus_id="00000000:37:00.0",device="nvidia0",modelName="Tesla T4",Hostname="n1"} 9791
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-7c2b",pci_bus_id="00000000:86:00.0",device="nvidia1",modelName="NVIDIA A100",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n1",container="predictor",namespace="ml",pod="fraud-0"} 2000
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-7c2b",pci_bus_id="00000000:86:00.0",device="nvidia1",modelName="NVIDIA A100",GPU_I_PROFILE="1g.10gb",GPU_I_ID="8",Hostname="n1"} 9000
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-0d1e9c1a",pci_bus_id="00000000:37:00.0",device="nvidia0",modelName="Tesla T4",Hostname="n1"} 5120
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-7c2b",pci_bus_id="00000000:86:00.0",device="nvidia1",modelName="NVIDIA A100",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n1",container="predictor",namespace="ml",pod="fraud-0"} 8000
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-7c2b",pci_bus_id="00000000:86:00.0",device="nvidia1",modelName="NVIDIA A100",GPU_I_PROFILE="1g.10gb",GPU_I_ID="8",Hostname="n1"} 1000
# HELP DCGM_FI_DEV_FB_RESERVED Framebuffer memory reserved (in MiB).
# TYPE DCGM_FI_DEV_FB_RESERVED gauge
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-0d1e9c1a",pci_bus_id="00000000:37:00.0",device="nvidia0",modelName="Tesla T4",Hostname="n1"} 447
"#;

    const TRITON: &str = r#"# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="fraud",version="1"} 88
# HELP nv_gpu_utilization GPU utilization rate [0.0 - 1.0)
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-c06bbf33"} 0.000000
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-c06bbf33"} 40000000000.000000
nv_gpu_memory_total_bytes{gpu_uuid="GPU-d17c"} 40000000000.000000
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-c06bbf33"} 34000000000.000000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-d17c"} 1000000000.000000
"#;

    const VLLM: &str = r#"# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="org/m-8B"} 72.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="org/m-8B"} 0.4565217391304348
vllm:kv_cache_usage_perc{engine="1",model_name="org/m-8B"} 0.9375
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",gpu_memory_utilization="0.9",num_gpu_blocks="27511"} 1.0
"#;

    #[test]
    fn each_exporter_s_fullest_gpu_counts() {
        assert_eq!(fullest(DCGM.as_bytes()), Some(0.8), "the MIG instance of pod fraud-0");
        assert_eq!(fullest(TRITON.as_bytes()), Some(0.85));
        assert_eq!(fullest(VLLM.as_bytes()), Some(0.9375));
        let old = VLLM.replace("kv_cache", "gpu_cache");
        assert_eq!(fullest(old.as_bytes()), Some(0.9375), "before the metric was renamed");
        let all = [DCGM, TRITON, VLLM].concat();
        assert_eq!(fullest(all.as_bytes()), Some(0.9375));
    }

    #[test]
    fn what_the_driver_reserves_is_neither_used_nor_free() {
        let page = "DCGM_FI_DEV_FB_USED 900\nDCGM_FI_DEV_FB_FREE 100\nDCGM_FI_DEV_FB_RESERVED 1000\n";
        assert_eq!(fullest(page.as_bytes()), Some(0.9));
    }

    #[test]
    fn a_page_that_tells_too_little_tells_nothing() {
        for page in [
            "",
            "<html>login</html>",
            "# DCGM_FI_DEV_FB_USED 1\n# DCGM_FI_DEV_FB_FREE 1",
            "DCGM_FI_DEV_FB_USED{gpu=\"0\"} 1\nDCGM_FI_DEV_FB_FREE{gpu=\"1\"} 1",
            "DCGM_FI_DEV_FB_USED 1\nnv_gpu_memory_total_bytes 1",
            "DCGM_FI_DEV_FB_USED 0\nDCGM_FI_DEV_FB_FREE 0",
            "DCGM_FI_DEV_FB_USED_PERCENT 0.5",
            "vllm:kv_cache_usage_perc{engine=\"0\" 0.5",
            "vllm:kv_cache_usage_perc",
            "vllm:kv_cache_usage_perc NaN\nvllm:kv_cache_usage_perc +Inf\nvllm:kv_cache_usage_perc -1",
        ] {
            assert_eq!(fullest(page.as_bytes()), None, "{page}");
        }
    }

    #[test]
    fn lines_are_read_however_they_may_be_written() {
        for line in [
            "vllm:kv_cache_usage_perc 0.5",
            "vllm:kv_cache_usage_perc 5e-1 1764252000000",
            "  vllm:kv_cache_usage_perc\t{engine=\"0\"}\t0.5  \r",
            "vllm:kv_cache_usage_perc{} 0.5",
            "vllm:kv_cache_usage_perc{m=\"a}b\"}0.5",
            "vllm:kv_cache_usage_perc{m=\"a\\\"}b\"} 0.5",
            "vllm:kv_cache_usage_perc{m=\"a\\\\\"} 0.5",
        ] {
            assert_eq!(fullest(line.as_bytes()), Some(0.5), "{line}");
        }
        let labels = b"vllm:kv_cache_usage_perc{m=\"\xff\xfe\"} 0.5";
        assert_eq!(fullest(labels), Some(0.5), "labels are not text of ours");
        assert_eq!(fullest(b"vllm:kv_cache_usage_perc 1.01"), Some(1.0));
    }

    proptest! {
        #[test]
        fn the_fullest_of_any_number_counts(gpus in prop::collection::vec((0..100_000u32, 1..100_000u32), 1..20)) {
            let expected = gpus.iter().map(|(used, free)| f64::from(*used) / f64::from(used + free)).fold(0.0, f64::max);
            let line = |name: &str, gpu: usize, value: u32| format!("{name}{{gpu=\"{gpu}\",x=\"}}\"}} {value}\n");
            let of = |name: &'static str, value: fn(&(u32, u32)) -> u32| -> String {
                gpus.iter().enumerate().map(|(gpu, told)| line(name, gpu, value(told))).collect()
            };
            let dcgm = of("DCGM_FI_DEV_FB_USED", |gpu| gpu.0) + &of("DCGM_FI_DEV_FB_FREE", |gpu| gpu.1);
            prop_assert_eq!(fullest(dcgm.as_bytes()), Some(expected));
            let triton = of("nv_gpu_memory_total_bytes", |gpu| gpu.0 + gpu.1) + &of("nv_gpu_memory_used_bytes", |gpu| gpu.0);
            prop_assert_eq!(fullest(triton.as_bytes()), Some(expected));
        }

        #[test]
        fn bytes_of_any_kind_are_a_share_or_nothing(bytes: Vec<u8>) {
            for prefix in ["", "vllm:kv_cache_usage_perc{", "nv_gpu_memory_used_bytes 1\nnv_gpu_memory_total_bytes "] {
                let page = [prefix.as_bytes(), &bytes].concat();
                prop_assert!(fullest(&page).is_none_or(|share| (0.0..=1.0).contains(&share)));
            }
        }
    }
}
