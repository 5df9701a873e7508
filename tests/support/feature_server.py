"""Feast's own Python feature server on a project's Redis: `feast serve`, one worker that stays.

Arguments: folder, project, registry file, Redis host:port, the port to listen on.
"""

import os
import sys
from pathlib import Path

folder, project, registry, redis, port = sys.argv[1:]
Path(folder, "feature_store.yaml").write_text(
    f"""project: {project}
provider: local
registry: {registry}
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
)
feast = Path(sys.executable).with_name("feast")
arguments = ["-c", folder, "serve", "-h", "127.0.0.1", "-p", port, "--max-requests", "0", "--no-access-log"]
os.execv(sys.executable, [sys.executable, str(feast), *arguments])
