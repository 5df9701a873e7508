//! How much memory Weir takes once its L1 is full: rows are written and read until it holds no more.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use super::{
    check::{self, Source},
    data::View,
    servers::L1_MIB,
};
use crate::{caller::Caller, cpu, peers::Weir, resp::Client};

/// The first entity that has no row yet.
const FIRST: i64 = 1_000_001;
/// Rows between two looks at L1's size.
const STEP: i64 = 20_000;
/// L1 is full when that many rows more made it grow by less than one part in a hundred of its capacity.
const STEPS: i64 = 30;
/// The share of its capacity that a full L1 must hold.
const FULL: f64 = 0.9;
/// Rows a request or a pipeline.
const BATCH: usize = 100;

/// What a full L1 took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full {
    /// Rows that it holds.
    pub(crate) rows: f64,
    /// Weighed by Weir, in MiB.
    pub(crate) held: f64,
    /// Resident, in MiB.
    pub(crate) resident: f64,
}

/// Fills L1 with rows of `view`, whose values are checked.
pub(crate) fn fill(weir: &Weir, redis: SocketAddr, view: &View) -> Result<Full> {
    let (mut writer, mut caller) = (Client::connect(redis)?, Caller::connect(weir.server.address)?);
    let mut before = 0.0;
    for step in 0..STEPS {
        let first = FIRST + step * STEP;
        let ids: Vec<i64> = (first..first + STEP).collect();
        for ids in ids.chunks(BATCH) {
            let rows: Vec<u8> = ids.iter().flat_map(|&id| view.hset(id)).collect();
            writer.ask(&rows, ids.len())?;
            check::rows(&mut caller, view, ids, Source::L1Filling)?;
        }
        let metrics = metrics(weir.admin)?;
        let held = gauge(&metrics, "weir_l1_bytes")? / f64::from(1 << 20);
        let capacity = L1_MIB as f64;
        if held > FULL * capacity && held - before < capacity / 100.0 {
            let resident = cpu::resident(weir.server.process.id())?;
            return Ok(Full { rows: gauge(&metrics, "weir_l1_rows")?, held, resident });
        }
        before = held;
    }
    bail!("{} rows do not fill L1: it holds {before:.0} MiB", STEPS * STEP)
}

fn metrics(admin: SocketAddr) -> Result<String> {
    let answer = Caller::connect(admin)?.call(b"GET /metrics HTTP/1.1\r\nhost: bench.local\r\n\r\n")?;
    Ok(String::from_utf8(answer.body)?)
}

/// The value of a metric without labels.
fn gauge(metrics: &str, name: &str) -> Result<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no {name}"))?.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let metrics = "# TYPE weir_l1_bytes gauge\nweir_l1_bytes_max 3\nweir_l1_bytes 12.5\n";
        assert_eq!(gauge(metrics, "weir_l1_bytes").unwrap(), 12.5);
        gauge(metrics, "weir_l1").unwrap_err();
    }
}
