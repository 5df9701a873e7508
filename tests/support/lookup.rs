//! Lookup files as a job makes them: rows in parquet, then `weir offline build`.

use std::{fs::File, path::Path, sync::Arc};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use parquet::arrow::ArrowWriter;

use super::{hand::Echo, process::Folder, weir};

/// A row: driver, the value of `avg_daily_trips`, its event in microseconds since the epoch.
pub(crate) type Row = (i64, i64, i64);

/// Builds the lookup file of view `driver_stats` of that project (`driver_id` INT64, `avg_daily_trips` INT64) at `url`.
#[track_caller]
pub(crate) fn build(url: &str, project: &str, environment: &[(String, String)], rows: &[Row]) {
    let folder = Folder::new("lookup");
    let from = folder.path().join("drivers.parquet");
    parquet(&from, rows);
    let config = folder.write("weir.yaml", format!("features:\n  project: {project}\n  views:\n{}", view("")));
    let mut command = weir::command();
    command
        .args(["offline", "build", "--view", "driver_stats", "--to", url, "--from"])
        .arg(&from)
        .arg("-c")
        .arg(&config);
    let output = command.envs(environment.iter().cloned()).output().expect("weir starts");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

/// A model that is sent one feature of a driver's row, and its pool: the first keys of a file.
pub(crate) fn model(echo: &Echo, feature: &str) -> String {
    format!(
        r#"
pools: {{echo: {{endpoints: ["{}"]}}}}
models:
  drivers:
    pool: echo
    timeout: 60s
    features: [{{view: driver_stats, join: {{driver_id: driver_id}}}}]
    inputs: {{as: columns, columns: ["driver_stats:{feature}"]}}
"#,
        echo.endpoint()
    )
}

/// The view, for a config's `views`, with further keys.
pub(crate) fn view(more: &str) -> String {
    format!(
        "    driver_stats: {{entities: {{driver_id: INT64}}, features: {{avg_daily_trips: {{type: INT64, default: -1}}}}{more}}}\n"
    )
}

fn parquet(path: &Path, rows: &[Row]) {
    let column = |of: fn(&Row) -> i64| rows.iter().map(of);
    let columns: [(&str, ArrayRef); 3] = [
        ("driver_id", Arc::new(Int64Array::from_iter_values(column(|row| row.0)))),
        ("avg_daily_trips", Arc::new(Int64Array::from_iter_values(column(|row| row.1)))),
        (
            "event_timestamp",
            Arc::new(TimestampMicrosecondArray::from_iter_values(column(|row| row.2)).with_timezone("UTC")),
        ),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("equally long columns");
    let file = File::create(path).expect("the folder is writable");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a schema");
    writer.write(&batch).expect("memory");
    writer.close().expect("the folder is writable");
}
