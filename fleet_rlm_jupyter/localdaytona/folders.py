"""The temporary folders of a server: making them, and sweeping those of servers that are gone."""

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from fleet_rlm_jupyter.localdaytona.plan import INSIDE_UID, USER

PREFIX = "fleet-localdaytona-"
_ETC_FILES = ("ld.so.cache", "ld.so.conf", "localtime", "timezone", "mime.types", "protocols", "services", "os-release")
_ETC_FOLDERS = ("ld.so.conf.d", "alternatives", "ssl/certs", "fonts", "pki/tls/certs", "pki/ca-trust/extracted")
_LONGEST_PARENT = 56
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class Folders:
    """One folder per server, locked while the server lives; `shared` is what its sandboxes have in common."""

    def __init__(self, owner: int | None) -> None:
        self._owner = owner
        self.base = tempfile.mkdtemp(prefix=PREFIX, dir=temporary())
        # Other users of this machine may only come in where sandboxes run as another user. Else code could leave
        # a set-user-id program of ours in its home for them.
        self._mode = 0o700 if owner is None else 0o711
        os.chmod(self.base, self._mode)
        self._lock = os.open(f"{self.base}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.shared = f"{self.base}/shared"
        _copy_etc(Path(self.shared) / "etc")
        Path(self.shared, "bin").mkdir()

    def path_with(self, interpreter: str) -> str:
        """A PATH on which `python3` is this interpreter."""
        folder = os.path.dirname(interpreter)
        if os.path.exists(f"{folder}/python3"):
            return f"{folder}:{SYSTEM_PATH}"
        os.symlink(interpreter, f"{self.shared}/bin/python3")
        return f"/opt/daytona/bin:{self.shared}/bin:{SYSTEM_PATH}"

    def make_sandbox(self, identifier: str) -> str:
        """The folder of a sandbox, with a home that is kept over a stop and a /tmp that is not."""
        folder = f"{self.base}/{identifier}"
        os.makedirs(f"{folder}/root", exist_ok=True)
        os.chmod(folder, self._mode)
        for path in (f"{folder}/home", f"{folder}/tmp"):
            if not os.path.lexists(path):
                os.mkdir(path, 0o700)
                if self._owner is not None:
                    os.chown(path, self._owner, self._owner)
        return folder


def sweep() -> None:
    """Delete what servers left that were killed together with their fork servers."""
    for folder in Path(temporary()).glob(f"{PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(str(folder))
        os.close(lock)


def remove_tree(path: str) -> None:
    """Delete a folder even when code took its own permissions away, or nested deeper than Python recurses."""
    for argv in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if not os.path.lexists(path):
            return
        subprocess.run([*argv, "--", path], stderr=subprocess.DEVNULL, env={"PATH": SYSTEM_PATH}, check=False)


def megabytes(paths: list[str]) -> dict[str, int]:
    """What the files below each path take on the disk. Without root, what code closed to itself is not counted."""
    if not paths:
        return {}
    argv, env = ["du", "-skx", "--", *paths], {"PATH": SYSTEM_PATH}
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True, check=False)
    sizes = (line.split("\t", 1) for line in done.stdout.splitlines())
    return {path: int(size) >> 10 for size, path in sizes}


def reachable_by_all(path: Path) -> bool:
    """Whether any user may enter the folders that lead to `path`, as far as they exist."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents if parent.exists())


def temporary() -> str:
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= _LONGEST_PARENT else "/tmp"  # sockets need a short path


def etc_folders(root: str = "") -> list[str]:
    """The folders of the /etc below `root` that a sandbox mounts: no link leads there, so it is the same elsewhere."""
    paths = {name: f"{root}/etc/{name}" for name in _ETC_FOLDERS}
    return [name for name, path in paths.items() if os.path.isdir(path) and os.path.realpath(path) == path]


def _copy_etc(etc: Path) -> None:
    etc.mkdir(parents=True)
    for name in _ETC_FILES:
        with contextlib.suppress(OSError):
            shutil.copyfile(f"/etc/{name}", etc / name)
    if sys.platform == "linux":
        mounted = etc_folders()
        for name in mounted:
            (etc / name).mkdir(parents=True)
        for name in sorted(set(_ETC_FOLDERS) - set(mounted)):
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(f"/etc/{name}", etc / name, symlinks=True, ignore_dangling_symlinks=True)
    lines = {
        "passwd": f"{USER}:x:{INSIDE_UID}:{INSIDE_UID}::/home/daytona:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "group": f"{USER}:x:{INSIDE_UID}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "hostname": "sandbox\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    for name, text in lines.items():
        (etc / name).write_text(text)
