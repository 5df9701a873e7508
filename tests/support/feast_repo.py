"""Builds a Feast repository from parquet files that pandas writes, materializes it, and prints the rows it holds.

Arguments: folder, project, redis | redis_cluster, connection string. The last line printed is a JSON object: for each view a
list of rows, as Feast's own SDK reads them back from the online store (bytes as lists of numbers, times as seconds).
"""

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

folder, project, redis_type, connection = sys.argv[1:]
folder = Path(folder)
now = datetime.now(timezone.utc).replace(microsecond=123456)
hour_ago = now - timedelta(hours=1)


def times(count):
    return {"event_timestamp": [hour_ago] * count, "created": [now] * count}


USERS = 20
frames = {
    # The views of the fraud example.
    "user_stats": {
        "user_id": list(range(1000, 1000 + USERS)),
        "txn_count_1h": [7 * n for n in range(USERS)],
        "avg_amount_7d": [n + 0.5 for n in range(USERS)],
    },
    "merchant_stats": {
        "merchant_id": ["m-1", "m-2", "großhändler-用户", "{tag}"],
        "chargeback_rate": [0.01, 0.125, 0.1, 1.5],
    },
    # Every scalar and list type.
    "all_types": {
        "user_id": [1, 2, -1],
        "f_int32": [42, -(2**31), 2**31 - 1],
        "f_int64": [2**53 + 1, -(2**63), 2**63 - 1],
        "f_float": [0.5, -0.0, 3.4028234663852886e38],
        "f_double": [0.1, 5e-324, 1e22],
        "f_bool": [True, False, True],
        "f_string": ["plain", "", "🚀 ünïcødé\n\"'\\"],
        "f_bytes": [b"\x00\x01\xfe\xff", b"", b"abc"],
        "f_ts": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)] * 3,
        "l_int32": [[1, -2, 3], [0], [2**31 - 1]],
        "l_int64": [[2**53 + 1], [-1, 1], [0]],
        "l_float": [[0.5, 1.5], [-0.0], [1e-45]],
        "l_double": [[0.1], [1e22, -1e-22], [0.0]],
        "l_bool": [[True, False], [False], [True]],
        "l_string": [["a", "", "ü"], ["b"], ["c", "d"]],
        "l_bytes": [[b"\xff\x00", b""], [b"x"], [b"y", b"z"]],
        "l_ts": [[datetime(2026, 1, 2, tzinfo=timezone.utc)], [datetime(1970, 1, 1, tzinfo=timezone.utc)], [now]],
    },
}
schemas = {
    "user_stats": [("txn_count_1h", Int64), ("avg_amount_7d", Float64)],
    "merchant_stats": [("chargeback_rate", Float32)],
    "all_types": [
        ("f_int32", Int32), ("f_int64", Int64), ("f_float", Float32), ("f_double", Float64), ("f_bool", Bool),
        ("f_string", String), ("f_bytes", Bytes), ("f_ts", UnixTimestamp),
        ("l_int32", Array(Int32)), ("l_int64", Array(Int64)), ("l_float", Array(Float32)), ("l_double", Array(Float64)),
        ("l_bool", Array(Bool)), ("l_string", Array(String)), ("l_bytes", Array(Bytes)), ("l_ts", Array(UnixTimestamp)),
    ],
}
entities = {
    "user_id": Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64),
    "merchant_id": Entity(name="merchant", join_keys=["merchant_id"], value_type=ValueType.STRING),
}

views = []
for name, columns in frames.items():
    join_key = next(iter(columns))
    frame = pd.DataFrame(columns | times(len(columns[join_key])))
    for feature, kind in schemas[name]:
        narrow = {Int32: "int32", Float32: "float32"}.get(kind)
        if narrow:
            frame[feature] = frame[feature].astype(narrow)
    path = folder / f"{name}.parquet"
    frame.to_parquet(path)
    source = FileSource(
        name=f"{name}_source", path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created"
    )
    views.append(
        FeatureView(
            name=name,
            entities=[entities[join_key]],
            schema=[Field(name=feature, dtype=kind) for feature, kind in schemas[name]]
            + [Field(name=join_key, dtype=Int64 if join_key == "user_id" else String)],
            ttl=timedelta(days=1),
            source=source,
        )
    )

store = FeatureStore(
    config=RepoConfig(
        project=project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "redis", "redis_type": redis_type, "connection_string": connection},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
)
store.apply([*entities.values(), *views])
store.materialize(start_date=now - timedelta(days=1), end_date=now + timedelta(hours=1))


def plain(value):
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return int(value.timestamp())
    return value


rows = {}
for name, columns in frames.items():
    join_key = next(iter(columns))
    answer = store.get_online_features(
        features=[f"{name}:{feature}" for feature, _ in schemas[name]],
        entity_rows=[{join_key: value} for value in columns[join_key]],
    ).to_dict()
    keys = list(answer)
    rows[name] = [{key: plain(answer[key][row]) for key in keys} for row in range(len(columns[join_key]))]
print(json.dumps(rows))
