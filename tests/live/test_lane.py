"""The lane that needs a key is run against the local server, so that it is whole when somebody has one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from contract.localdaytona_server import KEY, live_sandboxes, start

HERE = Path(__file__).parent


def test_the_live_lane_passes_where_there_is_a_service_and_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory() as data:
        os.chmod(data, 0o755)
        server = start(Path(data), "auto")
        try:
            named = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "live", str(HERE)],
                env=named | {"DAYTONA_API_KEY": KEY, "DAYTONA_API_URL": server.url},
                cwd=HERE.parents[1],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-3000:]
            assert " passed" in done.stdout
            assert "skipped" not in done.stdout
            assert live_sandboxes(server) == []
        finally:
            assert server.end() == 0
