"""What holds for every lane: hypothesis profiles, no keys of the developer, reasons for what is skipped."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_proxy import HUB_PROXY
from hypothesis import HealthCheck, settings

import fleet_rlm_jupyter
from fleet_rlm_jupyter.settings import ALSO

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
slow_is_fine = [HealthCheck.too_slow]
settings.register_profile(
    "default", max_examples=200, deadline=None, derandomize=True, suppress_health_check=slow_is_fine
)
settings.register_profile("soak", max_examples=10_000, deadline=None, suppress_health_check=slow_is_fine)
settings.load_profile(PROFILE)

# A test must neither spend a developer's money nor depend on their settings: only live tests see Daytona's variables.
DAYTONA = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("DAYTONA_")}
KEYS = {name for also in ALSO.values() for name in also}
for name in [name for name in os.environ if name.startswith("FLEET_") or name in KEYS]:
    del os.environ[name]

# A job in the background of a shell does not hear SIGINT, and neither would what tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Runs are kept in the Jupyter data folder: tests have one of their own.
_DATA = tempfile.TemporaryDirectory(prefix="fleet-tests-", ignore_cleanup_errors=True)
os.environ["JUPYTER_DATA_DIR"] = _DATA.name

# The longest first: a file stays on one worker, and one that begins late would keep the others waiting for it.
LONG_FILES = (
    "test_kernel_stop.py", "test_ask_process.py", "test_sandboxes.py", "test_recipes.py",
    "test_kernel_placement.py", "test_session_sandboxes.py", "test_localdaytona_process.py", "test_notebooks.py",
    "test_workbenches.py", "test_kernel_magics.py", "test_cli.py", "test_optimizations.py", "test_kernel_discovery.py",
    "test_access.py", "test_bounded_memory.py", "test_manifests.py", "test_load.py",
)  # fmt: skip

CHROMIUM = Path("/usr/bin/chromium")

SKIPPED = {
    "hub": "" if HUB_PROXY and find_spec("jupyterhub") else "needs npm's configurable-http-proxy and the extra [hub]",
    "browser": "" if CHROMIUM.exists() and find_spec("playwright") else f"needs {CHROMIUM} and the extra [browser]",
    "live": "" if {"DAYTONA_API_KEY", "DAYTONA_API_URL"} <= DAYTONA.keys() else "needs DAYTONA_API_KEY and _URL",
    "soak": "" if PROFILE == "soak" else "runs with `make soak`",
}


def pytest_report_header() -> str:
    return f"package under test: {Path(fleet_rlm_jupyter.__file__).parent}, hypothesis profile: {PROFILE}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/attack/"):
            item.add_marker("attack")
        if item.nodeid.startswith("tests/browser/"):
            item.add_marker("browser")
        if item.nodeid.startswith("tests/hub/"):
            item.add_marker("hub")
        for marker, reason in SKIPPED.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
    rank = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    """What was imported stays: walking it again and again would be a fifth of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_data() -> Iterator[None]:
    """Each test begins with the tests' own data folder; one that leaves another behind is the one that fails."""
    yield
    left, os.environ["JUPYTER_DATA_DIR"] = os.environ.get("JUPYTER_DATA_DIR"), _DATA.name
    assert left == _DATA.name, f"this test left the data folder at {left}"


@pytest.fixture(scope="session")
def daytona_variables() -> dict[str, str]:
    """What the environment says of Daytona, for live tests."""
    return DAYTONA


@pytest.fixture(autouse=True)
def _daytona(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("live"):
        for name, value in DAYTONA.items():
            monkeypatch.setenv(name, value)
