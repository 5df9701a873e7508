"""Makes a Feast repository of two views in the working folder and writes their rows into its online store, all by Feast.

Arguments: event time (seconds since 1970), then NAME JOIN_KEY ROWS FEATURES for each view. The types and the values have to be
those of reads/data.rs.
"""

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Bool, Float32, Int64, String
from feast.value_type import ValueType

event_time = datetime.fromtimestamp(int(sys.argv[1]), tz=timezone.utc)
arguments = sys.argv[2:]
views = [arguments[at : at + 4] for at in range(0, len(arguments), 4)]
TYPES = [Float32] * 5 + [Int64] * 3 + [Bool, String]


def column(ids, feature):
    kind = TYPES[feature % 10]
    if kind is Float32:
        return ((ids * 7 + feature * 13) % 65536 / 16).astype("float32")
    if kind is Int64:
        return ids * 1_000_003 + feature
    if kind is Bool:
        return (ids + feature) % 2 == 0
    return [f"city-{(n + feature) % 1000}" for n in ids]


store = FeatureStore(".")
for name, join_key, rows, features in views:
    ids = np.arange(1, int(rows) + 1)
    columns = {join_key: ids} | {f"f{feature}": column(ids, feature) for feature in range(int(features))}
    frame = pd.DataFrame(columns | {"event_timestamp": [event_time] * len(ids)})
    frame.head(1).to_parquet(f"{name}.parquet")
    entity = Entity(name=join_key, join_keys=[join_key], value_type=ValueType.INT64)
    schema = [Field(name=f"f{feature}", dtype=TYPES[feature % 10]) for feature in range(int(features))]
    source = FileSource(
        name=f"{name}_source", path=str(Path(f"{name}.parquet").absolute()), timestamp_field="event_timestamp"
    )
    view = FeatureView(
        name=name,
        entities=[entity],
        schema=[Field(name=join_key, dtype=Int64), *schema],
        ttl=timedelta(0),
        source=source,
    )
    store.apply([entity, view])
    store.write_to_online_store(name, frame)
