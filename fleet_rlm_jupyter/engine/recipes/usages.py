"""Where a name is called, raised, caught, imported or read in Python files, in which function. Runs in the sandbox."""

from __future__ import annotations

import ast
import gc
import warnings
from collections import Counter
from typing import TypedDict

from fleet_rlm_jupyter.engine.recipes.classes import ends_with, module_of
from fleet_rlm_jupyter.engine.recipes.records import Piece
from fleet_rlm_jupyter.engine.recipes.report import SHOWN_LINES, Report, amount

HOWS = ("any", "call", "raise", "catch", "import", "read")
DONE = {
    "any": "used",
    "call": "called",
    "raise": "raised",
    "catch": "caught",
    "import": "imported",
    "read": "read",
}
AT_MODULE = "(module level)"


class UsedAt(TypedDict):
    """One place: how the name is used there, in which function or class, and the line."""

    path: str
    line: int
    how: str
    inside: str
    text: str


class Usages(TypedDict):
    """What a part has found. `skipped` files do not have the name in their text, so they need not be parsed."""

    files: int
    skipped: int
    unparsed: list[str]
    found: list[UsedAt]


def usages(pieces: list[Piece], slots: dict[str, str]) -> Usages:
    """Parse every file in which the name occurs and keep the places where it is used as asked."""
    name, how = slots["name"], slots.get("how", "any")
    done: Usages = {"files": len(pieces), "skipped": 0, "unparsed": [], "found": []}
    was_collecting = gc.isenabled()
    gc.disable()  # a syntax tree has no garbage; collecting while it grows doubles the time
    try:
        for piece in pieces:
            if name.rpartition(".")[2] not in piece.text:
                done["skipped"] += 1
                continue
            source = piece.text.lstrip("\ufeff")
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # invalid escapes in old code
                    tree = ast.parse(source)
                seen = UsageReader(piece.path, source, tree, name)
                seen.visit(tree)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                done["unparsed"].append(piece.path)
                continue
            done["found"].extend(one for one in seen.found if how in ("any", one["how"]))
    finally:
        if was_collecting:
            gc.enable()
    return done


class UsageReader(ast.NodeVisitor):
    """Walks a module and notes each place where the name is meant, imports under another name resolved."""

    def __init__(self, path: str, source: str, tree: ast.Module, name: str) -> None:
        self.path = path
        self.name = name
        self.lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.module = module_of(path)
        self.around: list[str] = []
        self.imports: dict[str, str] = {}
        self.own = {
            node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        }
        self.hows: dict[int, str] = {}
        self.found: list[UsedAt] = []

    def visit_inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self.visit(decorator)
        self.around.append(node.name)
        for field, value in ast.iter_fields(node):
            if field != "decorator_list":
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        self.around.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_inside

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self.imports[alias.asname] = alias.name
            if alias.name == self.name or alias.name.startswith(self.name + "."):
                self.note(node.lineno, "import")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package = "." * node.level + (node.module or "")
        for alias in node.names:
            full = f"{package.lstrip('.')}.{alias.name}".lstrip(".")
            self.imports[alias.asname or alias.name] = full
            if ends_with(full, self.name) or package.lstrip(".") == self.name:
                self.note(node.lineno, "import")

    def visit_Call(self, node: ast.Call) -> None:
        self.hows.setdefault(id(node.func), "call")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        self.hows[id(raised)] = "raise"
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        for one in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
            self.hows[id(one)] = "catch"
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.meant(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load) or not self.meant(node):
            self.generic_visit(node)

    def meant(self, node: ast.Name | ast.Attribute) -> bool:
        names: list[str] = []
        expression: ast.expr = node
        while isinstance(expression, ast.Attribute):
            names.append(expression.attr)
            expression = expression.value
        if isinstance(expression, ast.Name):
            names.append(self.imports.get(expression.id) or self.own_name(expression.id))
        dotted = ".".join(reversed(names))
        if not ends_with(dotted, self.name):
            return False
        self.note(node.lineno, self.hows.get(id(node), "read"))
        return True

    def own_name(self, name: str) -> str:
        """A class or function of this file under its module; at the root of a package, under the one asked for."""
        if name not in self.own:
            return name
        package = self.name.rpartition(".")[0]
        return f"{package if self.path == '__init__.py' and '.' not in package else self.module}.{name}".lstrip(".")

    def note(self, line: int, how: str) -> None:
        text = self.lines[line - 1].strip()
        inside = ".".join(self.around) or AT_MODULE
        self.found.append({"path": self.path, "line": line, "how": how, "inside": inside, "text": text[:300]})


def merge_usages(parts: list[Usages], slots: dict[str, str]) -> Usages:
    """Everything found, in the order of paths and lines."""
    found = [one for part in parts for one in part["found"]]
    return {
        "files": sum(part["files"] for part in parts),
        "skipped": sum(part["skipped"] for part in parts),
        "unparsed": sorted(path for part in parts for path in part["unparsed"]),
        "found": sorted(found, key=lambda one: (one["path"], one["line"], one["how"])),
    }


def report_usages(recipe: str, slots: dict[str, str], done: Usages) -> Report:
    """In which modules and functions the name is used, with the lines."""
    how, found = slots.get("how", "any"), done["found"]
    places: dict[str, dict[str, list[int]]] = {}
    for one in found:
        lines = places.setdefault(one["path"], {}).setdefault(one["inside"], [])
        if one["line"] not in lines:
            lines.append(one["line"])
    insides = sum(len(inside) for inside in places.values())
    head = f"{slots['name']} is {DONE[how]} {amount(len(found), 'time')} in {amount(len(places), 'module')}"
    listed = "; ".join(
        f"{path}: " + ", ".join(f"{inside} ({said_lines(lines)})" for inside, lines in places[path].items())
        for path in places
    )
    sentences = [f"{head} and {amount(insides, 'function')} or other block: {listed}." if found else f"{head}."]
    if how == "any" and found:
        by_how = Counter(one["how"] for one in found)
        sentences.append("How: " + ", ".join(f"{DONE[name]} {n:,}" for name, n in by_how.most_common()) + ".")
    sentences.append(
        f"{amount(done['files'], 'Python file')} read; in {done['skipped']:,} of them the name does not occur."
    )
    if done["unparsed"]:
        sentences.append(f"Left out, since they do not parse: {', '.join(done['unparsed'][:10])}.")
    step = max(1, len(found) // SHOWN_LINES)
    picked = found[::step][:SHOWN_LINES]
    return Report(sentences, [(one["path"], one["line"], one["text"]) for one in picked], usage_claims(slots, picked))


def said_lines(lines: list[int]) -> str:
    return f"line{'s' if len(lines) > 1 else ''} {', '.join(str(line) for line in lines)}"


def usage_claims(slots: dict[str, str], picked: list[UsedAt]) -> list[dict[str, str]]:
    return [{"usages": slots["name"], "how": one["how"]} for one in picked]
