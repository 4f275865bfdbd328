"""Classes, functions and constants in Python files, read by `ast`: definitions and subclasses. Runs in the sandbox."""

from __future__ import annotations

import ast
import builtins
import gc
import warnings
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.records import Piece


class Found(TypedDict):
    """A class, function or constant: where, its name with those around it, and a class's bases, imports resolved."""

    path: str
    line: int
    name: str
    kind: str
    text: str
    bases: list[str]


class Census(TypedDict):
    """What a part has found. `skipped` files do not have the name in their text, so they need not be parsed."""

    files: int
    skipped: int
    unparsed: list[str]
    found: list[Found]


def census(pieces: list[Piece], slots: dict[str, str]) -> Census:
    """Parse every file in which the name occurs and keep the definitions or subclasses that are asked for."""
    name = slots.get("base") or slots["name"]
    # Through other classes, a file may matter without naming the base.
    needle = "class" if slots.get("transitive") == "yes" else name.rpartition(".")[2]
    done: Census = {"files": len(pieces), "skipped": 0, "unparsed": [], "found": []}
    was_collecting = gc.isenabled()
    gc.disable()  # a syntax tree has no garbage; collecting while it grows doubles the time
    try:
        for piece in pieces:
            if needle not in piece.text:
                done["skipped"] += 1
                continue
            found = read_python(piece, slots.get("kind", "any") in ("any", "constant") and "name" in slots)
            if found is None:
                done["unparsed"].append(piece.path)
            else:
                done["found"].extend(one for one in found if keeps(one, slots))
    finally:
        if was_collecting:
            gc.enable()
    return done


def keeps(one: Found, slots: dict[str, str]) -> bool:
    if "base" in slots:
        return bool(one["bases"]) if slots.get("transitive") == "yes" else is_direct(one, slots["base"])
    kind = slots.get("kind", "any")
    return ends_with(one["name"], slots["name"]) and kind in ("any", one["kind"])


def is_direct(one: Found, base: str) -> bool:
    """Whether a base is written, or imported, as `base`: Exception, builtins.Exception, socketserver.BaseServer …"""
    return any(ends_with(name, base) for name in one["bases"])


def ends_with(dotted: str, name: str) -> bool:
    return dotted == name or dotted.endswith("." + name)


def read_python(piece: Piece, with_names: bool = False) -> list[Found] | None:
    """Every class and function of a file, and `with_names` what modules and classes assign; None: it does not parse."""
    source = piece.text.lstrip("\ufeff")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old code
            tree = ast.parse(source)
        visitor = Reader(piece.path, source, with_names)
        visitor.visit_block(tree.body, "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return visitor.found()


class Reader:
    """Walks statements only: definitions cannot hide in expressions."""

    def __init__(self, path: str, source: str, with_names: bool) -> None:
        self.path = path
        self.with_names = with_names
        self.lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.module = module_of(path)
        self.imports: dict[str, str] = {}
        self.nodes: list[tuple[ast.stmt, str]] = []

    def visit_block(self, statements: list[ast.stmt], around: str, is_local: bool = False) -> None:
        for node in statements:
            inside, is_local_inside = around, is_local
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                inside = f"{around}.{node.name}" if around else node.name
                is_local_inside = is_local or not isinstance(node, ast.ClassDef)
                self.nodes.append((node, inside))
            elif self.with_names and isinstance(node, (ast.Assign, ast.AnnAssign)) and not is_local:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                self.nodes.extend((node, f"{around}.{name}" if around else name) for name in names)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self.visit_import(node)
                continue
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if block:
                    self.visit_block(block, inside, is_local_inside)
            for branch in getattr(node, "handlers", []) + getattr(node, "cases", []):
                self.visit_block(branch.body, inside, is_local_inside)

    def visit_import(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self.imports[alias.asname] = alias.name
            return
        package = node.module or ""
        if node.level:
            parents = self.module.split(".")[: -node.level or None]
            if self.path.endswith("__init__.py"):
                parents = self.module.split(".")[: len(self.module.split(".")) - node.level + 1]
            package = ".".join([*parents, package] if package else parents)
        for alias in node.names:
            self.imports[alias.asname or alias.name] = f"{package}.{alias.name}" if package else alias.name

    def found(self) -> list[Found]:
        own = {name for node, name in self.nodes if isinstance(node, ast.ClassDef)}
        return [self.entry(node, name, own) for node, name in self.nodes]

    def entry(self, node: ast.stmt, name: str, own: set[str]) -> Found:
        bases = node.bases if isinstance(node, ast.ClassDef) else []
        return {
            "path": self.path,
            "line": node.lineno,
            "name": name,
            "kind": kind_of_node(node),
            "text": self.statement(node),
            "bases": [base for expression in bases if (base := self.base(expression, own))],
        }

    def base(self, expression: ast.expr, own: set[str]) -> str:
        """The base as a dotted name with imports resolved; "" for a call or anything else without a name."""
        if isinstance(expression, ast.Subscript):
            expression = expression.value
        names: list[str] = []
        while isinstance(expression, ast.Attribute):
            names.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return ".".join(reversed(names))
        first = expression.id
        if first in own:
            first = f"{self.module}.{first}"
        elif first in self.imports:
            first = self.imports[first]
        return ".".join([first, *reversed(names)])

    def statement(self, node: ast.stmt) -> str:
        """A whole assignment; else the statement's first line, or its lines up to the body when the bases go on."""
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            text = " ".join(line.strip() for line in self.lines[node.lineno - 1 : node.end_lineno])
            return text if len(text) <= 300 else text[:300] + "…"
        lines = [self.lines[node.lineno - 1].strip()]
        for line in self.lines[node.lineno : node.lineno + 8]:
            if "(" not in lines[0] or lines[-1].endswith(":") or ")" in " ".join(lines):
                break
            lines.append(line.strip())
        text = " ".join(lines)
        return text if len(text) <= 300 else text[:300] + "…"


def kind_of_node(node: ast.stmt) -> str:
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return "constant"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def module_of(path: str) -> str:
    """asyncio/events.py is asyncio.events; a package's __init__.py is the package."""
    name = path.rsplit(".", 1)[0].replace("\\", "/").strip("/").replace("/", ".")
    return name[: -len(".__init__")] if name.endswith(".__init__") else name


def merge_censuses(parts: list[Census], slots: dict[str, str]) -> Census:
    """Everything found, in the order of paths and lines."""
    found = sorted((one for part in parts for one in part["found"]), key=lambda one: (one["path"], one["line"]))
    return {
        "files": sum(part["files"] for part in parts),
        "skipped": sum(part["skipped"] for part in parts),
        "unparsed": sorted(path for part in parts for path in part["unparsed"]),
        "found": closure(found, slots["base"]) if slots.get("transitive") == "yes" else found,
    }


def closure(classes: list[Found], base: str) -> list[Found]:
    """The classes that subclass `base` directly or through other classes of these files or of builtins."""
    by_name: dict[str, list[int]] = {}
    for index, one in enumerate(classes):
        by_name.setdefault(one["name"].rpartition(".")[2], []).append(index)
    is_in = [is_direct(one, base) or any(is_builtin_below(name, base) for name in one["bases"]) for one in classes]
    parents = [[other for name in one["bases"] for other in named(name, classes, by_name)] for one in classes]
    grew = True
    while grew:
        grew = False
        for index, above in enumerate(parents):
            if not is_in[index] and any(is_in[other] for other in above):
                is_in[index] = grew = True
    return [one for index, one in enumerate(classes) if is_in[index]]


def named(base: str, classes: list[Found], by_name: dict[str, list[int]]) -> list[int]:
    """The classes that a resolved base can be: those of its module, else those its package may re-export."""
    package, _, name = base.rpartition(".")
    if not package:
        return []
    full = {index: f"{module_of(classes[index]['path'])}.{classes[index]['name']}" for index in by_name.get(name, ())}
    exact = [index for index in full if ends_with(full[index], base)]
    return exact or [
        index for index in full if f".{package}." in f".{full[index]}" and "." not in classes[index]["name"]
    ]


def is_builtin_below(name: str, base: str) -> bool:
    own, above = getattr(builtins, name, None), getattr(builtins, base.removeprefix("builtins."), None)
    return isinstance(own, type) and isinstance(above, type) and issubclass(own, above)
