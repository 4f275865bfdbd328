"""What the bench compares ours with, from the package registries; in no extra, for only the bench needs them.

DSPy's PythonInterpreter runs on Deno (PyPI) and Pyodide (npm). Its runner also takes one function from deno.land; an
import map gives it ours instead, so that no other site is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dspy

PACKAGES = {"pydantic-monty": (), "dspy-monty-interpreter": ("--no-deps",), "rlms": (), "deno": ()}
DENO = Path(__file__).with_name("deno")


def install(folder: Path) -> None:
    """Put each peer into a folder of its own, behind everything else on the path; what cannot be had is said."""
    for package, options in PACKAGES.items():
        place = (folder / package).resolve()
        command = [sys.executable, "-m", "pip", "install", "--quiet", *options, "--target", str(place), package]
        if not place.exists() and subprocess.run(command, check=False, capture_output=True).returncode:
            print(f"({package} cannot be had from the package index)")
        sys.path.append(str(place))
        os.environ["PATH"] = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.environ.setdefault("DENO_DIR", str((folder / "deno-cache").resolve()))


def python_interpreter() -> dspy.PythonInterpreter:
    """A new one. The first ever downloads Pyodide."""
    command = dspy.PythonInterpreter().deno_command
    at = command.index("run") + 1
    return dspy.PythonInterpreter(deno_command=[*command[:at], f"--import-map={DENO / 'imports.json'}", *command[at:]])
