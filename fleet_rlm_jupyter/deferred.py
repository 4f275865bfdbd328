"""Modules that take long to import: those seldom used are imported when they are, and the collector slows none down."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import sys
import threading
from collections.abc import Generator
from types import ModuleType
from typing import Any

_lock = threading.Lock()


def defer(name: str, function: str) -> None:
    """Let `import name` cost nothing: the module is imported when its `function` is called, or anything else is asked.

    Does nothing where the module is there already, or cannot be had.
    """
    found = None if name in sys.modules else importlib.util.find_spec(name)
    if found is None:
        return
    stand_in: Any = ModuleType(name)
    stand_in.__path__ = found.submodule_search_locations  # `from name import …` asks for it

    def real() -> Any:
        with _lock:
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
            return importlib.import_module(name)

    def called(*given: Any, **named: Any) -> Any:
        return getattr(real(), function)(*given, **named)

    def asked(attribute: str) -> Any:
        return getattr(real(), attribute)

    setattr(stand_in, function, called)
    stand_in.__getattr__ = asked  # PEP 562: for what the stand-in does not have
    sys.modules[name] = stand_in


@contextlib.contextmanager
def importing() -> Generator[None]:
    """What is imported stays: nothing is collected meanwhile, and no collection walks it soon afterwards.

    Of two threads in it, the first to leave turns the collector on again.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            if not gc.get_freeze_count():  # else somebody has frozen what is theirs
                gc.freeze()
                gc.unfreeze()  # into the oldest generation, and no object is looked at
            gc.enable()


def imported(name: str) -> ModuleType:
    """The module of that name, imported so unless it is there."""
    if name in sys.modules:
        return importlib.import_module(name)  # waits for another thread that is still at it
    with importing():
        return importlib.import_module(name)
