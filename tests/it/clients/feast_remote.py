"""Feast's own SDK, unchanged, with Weir as its `remote` online store, beside the same SDK on Redis itself.

Arguments: registry file, project, Redis `host:port`, Weir's URL. The last line printed is a JSON object.
"""

import base64
import json
import sys
from datetime import datetime, timedelta, timezone

import pandas as pd
import requests
from feast import FeatureStore, RepoConfig
from feast.errors import FeastError
from feast.infra.online_stores.remote import get_remote_online_features

registry, project, redis, url = sys.argv[1:]


def store(online):
    return FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=registry,
            online_store=online,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )


direct = store({"type": "redis", "connection_string": redis})
remote = store({"type": "remote", "path": url})


def plain(value, feature):
    """What JSON has no type for becomes what it has; bytes arrive at a remote client as base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [plain(item, feature) for item in value]
    if isinstance(value, datetime):
        return int(value.timestamp())
    return value


def read(store, view, key, values):
    features = [f"{view}:{field.name}" for field in store.get_feature_view(view).features]
    answer = store.get_online_features(features=features, entity_rows=[{key: value} for value in values]).to_dict()
    return {name: [plain(value, name) for value in column] for name, column in answer.items()}


compared, differences = 0, []
for view, key, values in [
    ("user_stats", "user_id", [1000, 1003, 1019, 424242]),
    ("merchant_stats", "merchant_id", ["m-1", "großhändler-用户", "{tag}", "nobody"]),
    ("all_types", "user_id", [1, 2, -1, 424242]),
]:
    ours, theirs = read(remote, view, key, values), read(direct, view, key, values)
    for name in theirs:
        compared += len(values)
        if ours.get(name) != theirs[name]:
            differences.append([view, name, ours.get(name), theirs[name]])

# Written through Weir by the SDK, read from Redis by Feast.
now = datetime.now(timezone.utc).replace(microsecond=654321)
frame = pd.DataFrame(
    {"user_id": [1003, 5001], "txn_count_1h": [77, 78], "avg_amount_7d": [7.5, 8.5], "event_timestamp": [now, now],
     "created": [now, now]}
)
remote.write_to_online_store("user_stats", df=frame)
written = read(direct, "user_stats", "user_id", [1003, 5001])

# Pushed to Weir, read from Redis by Feast and from Weir by the SDK.
later = now + timedelta(seconds=1)
push = {
    "push_source_name": "user_stats",
    "df": {"user_id": [5001, 5002], "txn_count_1h": [80, None], "avg_amount_7d": [9.5, 10.5],
           "event_timestamp": [later.isoformat(), later.isoformat()]},
}
pushed = requests.post(f"{url}/push", json=push)
after = [read(one, "user_stats", "user_id", [5001, 5002]) for one in (direct, remote)]


def mistake(body):
    """The exception that the SDK makes of Weir's answer."""
    try:
        return get_remote_online_features(config=remote.config, req_body=body).status_code
    except FeastError as error:
        return [type(error).__name__, str(error)]


print(
    json.dumps(
        {
            "compared": compared,
            "differences": differences,
            "written": written,
            "pushed": [pushed.status_code, pushed.text],
            "after": after,
            "unknown_view": mistake({"features": ["nope:x"], "entities": {"user_id": [1]}}),
            "unknown_service": mistake({"feature_service": "nope", "entities": {"user_id": [1]}}),
        }
    )
)
