"""Ours beside what else runs code for a model: DSPy's interpreters, Monty, and the REPL of `rlms`; in one run.

`python peers.py FOLDER` installs the peers from PyPI into FOLDER (in no extra: only this bench needs them). What cannot
be had on this machine is said with the reason. The peers differ in what they promise: Monty is an interpreter of a part
of Python, LocalInterpreter and rlms run code as the user who asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import dspy
from table import load, row, seconds, timed

from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings

PACKAGES = ("pydantic-monty", "rlms", "deno")
MB = 1_000_000


class Runs(Protocol):
    """A peer with its REPL started: runs code over a variable `context`, and `echo` is a tool of the host."""

    def run(self, code: str, context: str | None = None) -> object: ...
    def close(self) -> None: ...


class OfDspy:
    """Anything that keeps DSPy's interpreter protocol."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.interpreter = make()
        self.interpreter.tools["echo"] = echo

    def run(self, code: str, context: str | None = None) -> object:
        return self.interpreter.execute(code, {} if context is None else {"context": context})

    def close(self) -> None:
        self.interpreter.shutdown()


class OfMonty:
    def __init__(self) -> None:
        import pydantic_monty

        self.pool = pydantic_monty.Monty()
        self.session = self.pool.__enter__().checkout().__enter__()

    def run(self, code: str, context: str | None = None) -> object:
        given = None if context is None else {"context": context}
        return self.session.feed_run(code, inputs=given, external_lookup={"echo": echo})

    def close(self) -> None:
        self.pool.__exit__(None, None, None)


class OfRlms:
    """Its local REPL takes the context once, from a file; a changed one would be a new REPL."""

    def __init__(self) -> None:
        from rlm.environments.local_repl import LocalREPL

        self.repl = LocalREPL(custom_tools={"echo": echo})

    def run(self, code: str, context: str | None = None) -> object:
        if context is not None and "context_0" not in self.repl.locals:
            self.repl.load_context(context)
        result = self.repl.execute_code(code)
        if result.stderr:
            raise RuntimeError(result.stderr)
        return result.stdout

    def close(self) -> None:
        self.repl.cleanup()


def echo(text: str) -> str:
    return text


def main() -> None:
    folder = Path(sys.argv[1])
    install(folder)
    home = DaytonaSandboxes(Settings())
    role = Role("s-bench", "r-bench", "bench", 1)
    peers: dict[str, Callable[[], Runs]] = {
        "ours": lambda: OfDspy(lambda: home.open(role)),
        "LocalInterpreter": lambda: OfDspy(dspy.LocalInterpreter),
        "PythonInterpreter": lambda: OfDspy(dspy.PythonInterpreter),
        "Monty": OfMonty,
        "rlms": OfRlms,
    }
    print(f"\nbeside its peers ({load()}; ours: {home.isolation.label})")
    try:
        there = {name: make for name, make in peers.items() if works(name, make)}
        row("figure", *there)
        for name, measure in FIGURES.items():
            row(name, *(cell(measure, make) for make in there.values()))
    finally:
        home.close()
    print(load())


def install(folder: Path) -> None:
    """Put each peer into a folder of its own, behind everything else on the path."""
    for package in PACKAGES:
        place = (folder / package).resolve()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(place), package]
        if not place.exists() and subprocess.run(command, check=False, capture_output=True).returncode:
            print(f"{package} cannot be had from the package index")
        sys.path.append(str(place))
        os.environ["PATH"] = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"


def works(name: str, make: Callable[[], Runs]) -> bool:
    """Whether a peer runs here; the last line of why not is printed."""
    try:
        runs = make()
        runs.run("1 + 1")
        runs.close()
    except Exception as err:
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        print(f"{name} does not run here: {type(err).__name__}: {' | '.join(lines[:3])[:300]}")
        return False
    return True


def cell(measure: Callable[[Callable[[], Runs]], list[float]], make: Callable[[], Runs]) -> str:
    try:
        return seconds(measure(make))
    except Exception as err:
        return type(err).__name__


def start(make: Callable[[], Runs]) -> list[float]:
    def once() -> None:
        runs = make()
        runs.run("1")
        runs.close()

    return timed(once, 5)


def again(code: str, times: int, context: str | None = None) -> Callable[[Callable[[], Runs]], list[float]]:
    """How long a cell takes once the REPL has run it before."""

    def measure(make: Callable[[], Runs]) -> list[float]:
        runs = make()
        try:
            runs.run(code, context)
            return timed(lambda: runs.run(code, context), times)
        finally:
            runs.close()

    return measure


def first(context: str) -> Callable[[Callable[[], Runs]], list[float]]:
    """How long the first cell over a context takes in a REPL that is up."""

    def measure(make: Callable[[], Runs]) -> list[float]:
        taken: list[float] = []
        for _ in range(3):
            runs = make()
            runs.run("1")
            taken += timed(lambda runs=runs: runs.run("len(context)", context), 1)
            runs.close()
        return taken

    return measure


FIGURES = {
    "start to first cell": start,
    "trivial cell": again("1", 100),
    "callback to the host": again("echo(text='x')", 100),
    "10 MB text, first cell": first("x" * (10 * MB)),
    "10 MB text, further cells": again("len(context)", 5, "x" * (10 * MB)),
    "100 MB text, first cell": first("x" * (100 * MB)),
    "100 MB text, further cells": again("len(context)", 3, "x" * (100 * MB)),
}


if __name__ == "__main__":
    main()
