"""Starts a Python program by forking this process, where a Python runs already, instead of a new one.

A terminal session asks for it by a variable that means nothing elsewhere; there a shell starts the program. It saves
most of the time and of the memory of a start: pages are shared with the fork server until they are written to.
"""

import asyncio
import contextlib
import gc
import importlib
import os
import runpy
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping

MODULE = "LOCALDAYTONA_WARM_MODULE"
"""The variable of a terminal session that names the module to run, as `python3 -u -m` would."""

_PRELOADED = (
    "ast", "base64", "codecs", "collections", "concurrent.futures", "csv", "dataclasses", "datetime", "decimal",
    "enum", "functools", "io", "itertools", "json", "linecache", "math", "queue", "random", "re", "runpy", "select",
    "statistics", "string", "subprocess", "textwrap", "threading", "traceback", "tty", "types", "typing",
)  # fmt: skip


def preload() -> None:
    """Import what programs use, once for all of them."""
    for name in _PRELOADED:
        importlib.import_module(name)


def fork(
    module: str, env: Mapping[str, str], cwd: str, python_path: tuple[str, ...], prepare: Callable[[], None]
) -> int:
    """Run `module` in a process of its own; returns its id. `prepare` gives it its terminal, limits and confinement.

    Nothing of this process goes on there: its files are closed by `prepare`, its objects are never freed.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        prepare()
        os.chdir(cwd)
        _become_fresh(env, cwd, python_path)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        with contextlib.suppress(AttributeError, OSError, ValueError):  # a program may have replaced or closed them
            sys.stdout.flush()
        os._exit(code)


def _become_fresh(env: Mapping[str, str], cwd: str, python_path: tuple[str, ...]) -> None:
    """Look from inside as if python3 had been started: no loop, its signals, its environment, where modules are."""
    gc.freeze()
    asyncio.events._set_running_loop(None)  # as Python 3.12 does by itself after a fork
    asyncio.set_event_loop(None)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update({name: value for name, value in env.items() if name != MODULE})
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *python_path]
    sys.executable = shutil.which("python3", path=env.get("PATH")) or sys.executable
