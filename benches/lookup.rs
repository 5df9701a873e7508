//! Lookup files at 1 k, 100 k and 10 M rows: what a build takes, and that a point read costs at most two ranged reads.
//!
//! `cargo bench --features bench --bench lookup` writes to a temporary folder (10 M rows: about 1 GB). `-- ROWS …` runs other sizes; `LOOKUP_URL` puts the
//! files on an object store instead. Fails when a lookup costs more than two reads or a row is missing.

use std::{error::Error, fs::File, io::Write, path::Path, sync::Arc};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use weir::cli::offline::measure;

const BATCH: i64 = 100_000;
const LOOKUPS: i64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let sizes: Vec<i64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 100_000, 10_000_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for rows in sizes {
        runtime.block_on(run(rows))?;
    }
    Ok(())
}

async fn run(rows: i64) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("in.parquet");
    write_parquet(&input, rows)?;
    let here = format!("file://{}", folder.path().join("out").display());
    let to = std::env::var("LOOKUP_URL").map_or(here, |url| format!("{url}/{rows}"));
    writeln!(out, "--- {rows} rows")?;
    writeln!(out, "{}", measure::build(&input.to_string_lossy(), &to).await?)?;
    writeln!(out, "peak RSS so far {}", peak_rss()?)?;
    // A stride that visits rows all over the file, and as many users who are not there.
    let users = || (0..LOOKUPS).map(move |n| n * 7_919 % rows);
    let cold = measure::point_reads(&to, users().take(1)).await?;
    writeln!(out, "cold    {cold}")?;
    let warm = measure::point_reads(&to, users().chain(rows..rows + LOOKUPS)).await?;
    writeln!(out, "running {warm}")?;
    if cold.most.max(warm.most) > 2 || warm.found as i64 != LOOKUPS {
        return Err("a lookup cost more than two ranged reads, or a row is missing".into());
    }
    Ok(())
}

fn write_parquet(path: &Path, rows: i64) -> Result<(), Box<dyn Error>> {
    let mut writer = None;
    for start in (0..rows).step_by(usize::try_from(BATCH)?) {
        let ids = start..rows.min(start + BATCH);
        let counts = ids.clone().map(|id| id % 1_000);
        let amounts = ids.clone().map(|id| id as f64 * 0.01);
        let times = ids.clone().map(|id| 1_700_000_000_000_000 + id);
        let batch = RecordBatch::try_from_iter([
            ("user_id", Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef),
            (measure::FEATURES[0], Arc::new(Int64Array::from_iter_values(counts))),
            (measure::FEATURES[1], Arc::new(Float64Array::from_iter_values(amounts))),
            ("event_timestamp", Arc::new(TimestampMicrosecondArray::from_iter_values(times))),
        ])?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(
                File::create(path)?,
                batch.schema(),
                Some(WriterProperties::builder().set_max_row_group_row_count(Some(1 << 20)).build()),
            )?),
        };
        writer.write(&batch)?;
    }
    writer.ok_or("no rows")?.close()?;
    Ok(())
}

fn peak_rss() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.unwrap_or(" unknown").trim().to_owned())
}
