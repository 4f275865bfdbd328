"""The rules of the house that a machine can keep (CONTRIBUTING.md), each tried on a source that breaks it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import fleet_rlm_jupyter

PACKAGE = Path(fleet_rlm_jupyter.__file__).parent
NAME = PACKAGE.name
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_FOLDERS = 400, 60, 8, 3

READS_ENVIRONMENT = {
    "settings.py",
    "localdaytona/cli.py",  # a program of its own, which imports nothing of ours
    "localdaytona/warm.py",  # a forked program finds its own there
}
CATCHES_EVERYTHING = {
    "engine/run.py",  # whatever happens, a run ends with its one run.ended
    "engine/trace.py",  # a watcher that fails is dropped
    "sandbox/guest.py",  # generated code may raise anything
    "localdaytona/app.py",  # an error becomes a status code
    "server/socket.py",
    "kernel/magics.py",
    "cli.py",
}
ASYNC = (
    "server/",
    "localdaytona/",
    "kernel/",
    "sandbox/client.py",  # the SDK's own loop, and what is awaited on it
    "sandbox/creation.py",
    "sandbox/machine.py",
    "sandbox/retries.py",
    "sandbox/interpreter.py",  # waits for a host tool that is async
    "engine/stream.py",  # DSPy hands the pieces of an answer to an async function
)
# Uploaded together and run in the sandbox, where nothing but Python need be.
UPLOADED = (
    "sandbox/volume_tool.py",
    "sandbox/workspace_tool.py",
    "sandbox/guest.py",
    "sandbox/codec.py",
    "sandbox/output.py",
    "sandbox/tables.py",
    "sandbox/guest_line.py",
    "sandbox/guest_volume.py",
    "sandbox/guest_work.py",
    "sandbox/guest_tools.py",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Complaints = Iterator[str]


parsed = cache(ast.parse)


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def long_modules(path: str, source: str) -> Complaints:
    lines = len(source.splitlines())
    if lines > MAX_MODULE_LINES:
        yield f"{lines} lines; one idea per module fits {MAX_MODULE_LINES}"


def long_functions(path: str, source: str) -> Complaints:
    for function in functions(parsed(source)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.name} has {lines} lines, {MAX_FUNCTION_LINES} are allowed"


def wide_functions(path: str, source: str) -> Complaints:
    for function in functions(parsed(source)):
        arguments = function.args
        names = [given.arg for given in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MAX_PARAMETERS:
            yield f"{function.name} takes {count} parameters, {MAX_PARAMETERS} are allowed"


def environment_readers(path: str, source: str) -> Complaints:
    if path in READS_ENVIRONMENT:
        return
    words = {"environ", "environb", "getenv", "getenvb", "putenv"}
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and node.attr in words and ast.unparse(node.value) == "os":
            yield f"line {node.lineno}: os.{node.attr}; only settings.py reads the environment"
        if isinstance(node, ast.ImportFrom) and node.module == "os" and {alias.name for alias in node.names} & words:
            yield f"line {node.lineno}: only settings.py reads the environment"


def late_imports(path: str, source: str) -> Complaints:
    if path.endswith("__init__.py"):
        return
    for function in functions(parsed(source)):
        for node in ast.walk(function):
            if any(name.split(".")[0] in (NAME, "") for name in imported(node)):
                yield f"line {node.lineno}: {function.name} imports our own module late; move the shared word down"


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports; a relative one begins with its dots."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["." * node.level + (node.module or "")]
    return []


def broad_excepts(path: str, source: str) -> Complaints:
    if path in CATCHES_EVERYTHING:
        return
    for node in ast.walk(parsed(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        is_broad = any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)
        passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        if is_broad and not passes_on:
            yield f"line {node.lineno}: a broad except outside the named boundaries"


def unfinished(path: str, source: str) -> Complaints:
    words = (
        "TODO",
        "FIXME",
        "XXX",
        "NotImplementedError",
        "unittest.mock",
        "MagicMock",
        "coming soon",
        "not implemented",
    )
    for number, line in enumerate(source.splitlines(), 1):
        for word in words:
            if word in line:
                yield f"line {number}: {word}"


def undocumented(path: str, source: str) -> Complaints:
    tree = parsed(source)
    if not ast.get_docstring(tree):
        yield "the first statement says what the module is for"


def asynchronous(path: str, source: str) -> Complaints:
    if path.startswith(ASYNC):
        return
    for node in ast.walk(parsed(source)):
        # A library's protocol may have an async half that a subclass can only refuse.
        if isinstance(node, ast.AsyncFunctionDef) and not isinstance(node.body[-1], ast.Raise):
            yield f"line {node.lineno}: {node.name} is async below the surfaces"


def deep_folders(path: str, source: str) -> Complaints:
    if path.count("/") + 1 > MAX_FOLDERS:
        yield f"deeper than {MAX_FOLDERS} folders"


def foreign_imports(path: str, source: str) -> Complaints:
    ours: tuple[str, ...]
    if path.startswith("domain/"):
        ours = ("pydantic", f"{NAME}.domain")
    elif path in UPLOADED:
        guest = "artifacts codec output tables guest_line guest_tools guest_volume guest_work volume_tool"
        ours = tuple(f".{name}" for name in guest.split())
    else:
        return
    for node in ast.walk(parsed(source)):
        for module in imported(node):
            is_known = module.split(".")[0] in sys.stdlib_module_names
            if not is_known and not any(f"{module}.".startswith(f"{name}.") for name in ours):
                yield f"line {node.lineno}: {module}; only {', '.join(('the standard library', *ours))} here"


RULES: dict[str, Callable[[str, str], Complaints]] = {
    "a module has at most 400 lines": long_modules,
    "a function has at most 60 lines": long_functions,
    "a function takes at most 8 parameters": wide_functions,
    "only settings.py reads the environment": environment_readers,
    "our own modules are imported at the top": late_imports,
    "everything is caught at named boundaries only": broad_excepts,
    "nothing is left unfinished or mocked": unfinished,
    "a module begins with what it is for": undocumented,
    "async code stays in its rings": asynchronous,
    "folders are at most three deep": deep_folders,
    "domain and guest keep to their libraries": foreign_imports,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule):
    broken = [
        f"{path}: {complaint}" for path, source in sorted(SOURCES.items()) for complaint in RULES[rule](path, source)
    ]
    assert not broken, "\n".join([rule, *broken])


BAD = {
    "a module has at most 400 lines": [("x.py", "x = 1\n" * 401)],
    "a function has at most 60 lines": [
        ("x.py", "def f():\n" + "    x = 1\n" * 60),
        ("x.py", "class C:\n    async def f(self):\n" + "        x = 1\n" * 60),
    ],
    "a function takes at most 8 parameters": [
        ("x.py", "def f(a, b, c, d, e, f, g, h, i): ..."),
        ("x.py", "class C:\n    def f(self, a, b, /, c, d, e, f, g, *, h, i): ..."),
    ],
    "only settings.py reads the environment": [
        ("engine/x.py", "import os\nx = os.environ['A']"),
        ("sandbox/guest.py", "import os\nx = os.getenv('A')"),
        ("x.py", "from os import environ"),
    ],
    "our own modules are imported at the top": [
        ("engine/x.py", "def f():\n    from fleet_rlm_jupyter.domain import events"),
        (
            "engine/x.py",
            "class C:\n    def f(self):\n        if self:\n            import fleet_rlm_jupyter.settings as s",
        ),
        ("engine/x.py", "def f():\n    from . import meter"),
    ],
    "everything is caught at named boundaries only": [
        ("engine/x.py", "try: f()\nexcept Exception: pass"),
        ("engine/x.py", "try: f()\nexcept: pass"),
        ("engine/x.py", "try: f()\nexcept (ValueError, BaseException) as err: log(err)"),
        ("run.py", "try: f()\nexcept Exception as err: raise ValueError from err"),
    ],
    "nothing is left unfinished or mocked": [
        ("x.py", "# TODO later"),
        ("x.py", "raise NotImplementedError"),
        ("x.py", "from unittest.mock import patch"),
        ("x.py", "print('coming soon')"),
    ],
    "a module begins with what it is for": [("x.py", "import os\n'late'"), ("x.py", "")],
    "async code stays in its rings": [
        ("engine/x.py", "async def f(): return 1"),
        ("sandbox/files.py", "class C:\n    async def f(self):\n        await g()"),
    ],
    "folders are at most three deep": [("a/b/c/d.py", "")],
    "domain and guest keep to their libraries": [
        ("domain/x.py", "import dspy"),
        ("domain/x.py", "from fleet_rlm_jupyter.settings import Settings"),
        ("domain/x.py", "import pydantic_settings"),
        ("sandbox/guest.py", "def f():\n    import pydantic"),
        ("sandbox/guest.py", "from fleet_rlm_jupyter.domain import events"),
        ("sandbox/codec.py", "from .interpreter import x"),
    ],
}
GOOD = {
    "a module has at most 400 lines": ("x.py", "x = 1\n" * 400),
    "a function has at most 60 lines": ("x.py", "def f():\n" + "    x = 1\n" * 59),
    "a function takes at most 8 parameters": ("x.py", "class C:\n    def f(self, a, b, c, d, e, f, g, h, **more): ..."),
    "only settings.py reads the environment": ("settings.py", "import os\nx = os.environ"),
    "our own modules are imported at the top": ("x.py", "from fleet_rlm_jupyter import y\ndef f():\n    import dspy"),
    "everything is caught at named boundaries only": ("x.py", "try: f()\nexcept BaseException:\n    undo()\n    raise"),
    "nothing is left unfinished or mocked": ("x.py", "x = 1"),
    "a module begins with what it is for": ("x.py", "'Says it.'"),
    "async code stays in its rings": ("sandbox/client.py", "async def f(): await g()"),
    "folders are at most three deep": ("a/b/c.py", ""),
    "domain and guest keep to their libraries": ("domain/x.py", "import json\nfrom pydantic import BaseModel"),
}


@pytest.mark.parametrize(("rule", "path", "source"), [(rule, *case) for rule, cases in BAD.items() for case in cases])
def test_each_rule_can_fail(rule, path, source):
    assert list(RULES[rule](path, source))


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_can_be_kept(rule):
    assert list(RULES[rule](*GOOD[rule])) == []


def test_every_named_exception_exists():
    assert {*READS_ENVIRONMENT, *CATCHES_EVERYTHING, *UPLOADED} <= SOURCES.keys()


def class_names(sources: dict[str, str]) -> Counter[str]:
    return Counter(
        node.name for source in sources.values() for node in parsed(source).body if isinstance(node, ast.ClassDef)
    )


def error_codes(sources: dict[str, str]) -> Counter[str]:
    """The `code` of every class that sets one as a text."""
    return Counter(
        line.value.value
        for source in sources.values()
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
        if [ast.unparse(name) for name in line.targets] == ["code"]
    )


def twice(names: Counter[str]) -> list[str]:
    return sorted(name for name, count in names.items() if count > 1)


def test_class_names_are_unique_in_the_whole_package():
    assert twice(class_names({"a.py": "class A: ...", "b.py": "class A: ...\nclass B: ..."})) == ["A"]
    assert twice(class_names(SOURCES)) == []


def test_error_codes_are_unique_in_the_whole_package():
    assert twice(error_codes({"a.py": "class A:\n    code = 'x'", "b.py": "class B:\n    code = 'x'"})) == ["x"]
    assert twice(error_codes(SOURCES)) == []


HEAVY = {"dspy", "daytona", "aiohttp", "socketio", "pydantic", "rich", "click", "dotenv", "litellm", "openai", "httpx"}


def imported_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has after `statement`."""
    script = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import pydantic, click") & HEAVY == {"pydantic", "click"}
    assert imported_by(f"import {NAME}") & HEAVY == set()


def test_the_extension_imports_nothing_heavy_into_the_servers_process():
    ours = imported_by(f"import {NAME}.server.extension") - imported_by("import jupyter_server.extension.application")
    assert ours & (HEAVY | {"sqlalchemy", "alembic", "pandas", "numpy", "websocket"}) == set()
