"""Python files as records: one for each class, function, method, module, import or constant. Runs in the sandbox."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from fleet_rlm_jupyter.engine.recipes.records import Piece, Row

PYTHON_UNITS = ("classes", "functions", "methods", "modules", "imports", "constants")


def python_rows(piece: Piece, unit: str) -> Iterator[Row]:
    """The records of a file; one without fields when it does not parse."""
    source = piece.text.lstrip("\ufeff")
    lines = source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old code
            tree = ast.parse(source)
        rows = list(inventory(tree, unit, piece.path, len(lines) - (lines[-1] == "")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield Row(1, None, lines[0])
        return
    for at, fields in rows:
        yield Row(at, fields, lines[at - 1].strip() if at <= len(lines) else "")


def inventory(tree: ast.Module, unit: str, path: str, length: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and fields of what there is of a unit."""
    if unit == "modules":
        kinds = ("classes", "functions", "methods")
        counts = {f"{kind}.count": str(len(list(definitions_in(tree.body, kind, "", "")))) for kind in kinds}
        yield 1, {"name": path, "lines": str(length), "docstring": yes(ast.get_docstring(tree, clean=False)), **counts}
    elif unit == "imports":
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, {"name": alias.name}) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.lineno, {"name": "." * node.level + (node.module or "")}
    else:
        yield from definitions_in(tree.body, unit, "", "")


def definitions_in(
    statements: list[ast.stmt], unit: str, around: str, kind_around: str
) -> Iterator[tuple[int, dict[str, str]]]:
    for node in statements:
        inside, kind_inside = around, kind_around
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = f"{around}.{node.name}" if around else node.name
            kind_inside = "class" if isinstance(node, ast.ClassDef) else "function"
            is_method = kind_inside == "function" and kind_around == "class"
            kinds = {"classes"} if kind_inside == "class" else {"functions", *(["methods"] if is_method else [])}
            if unit in kinds:
                yield node.lineno, fields_of_definition(node, inside, around) | {"kind": kind_of_function(kind_around)}
        elif unit == "constants" and kind_around != "function" and isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id.isupper():
                    yield node.lineno, {"name": f"{around}.{target.id}" if around else target.id}
        for name in ("body", "orelse", "finalbody"):
            yield from definitions_in(getattr(node, name, None) or [], unit, inside, kind_inside)
        for branch in getattr(node, "handlers", []) + getattr(node, "cases", []):
            yield from definitions_in(branch.body, unit, inside, kind_inside)


def kind_of_function(kind_around: str) -> str:
    return {"": "at module level", "class": "method", "function": "inside a function"}[kind_around]


def fields_of_definition(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, around: str
) -> dict[str, str]:
    fields = {
        "name": name,
        "within": around,
        "lines": str((node.end_lineno or node.lineno) - node.lineno + 1),
        "decorators": ", ".join(ast.unparse(one) for one in node.decorator_list),
        "docstring": yes(ast.get_docstring(node, clean=False)),
        "private": yes(node.name.startswith("_") and not node.name.endswith("__")),
    }
    if isinstance(node, ast.ClassDef):
        own = [one for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return fields | {"bases": ", ".join(ast.unparse(base) for base in node.bases), "methods.count": str(len(own))}
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    given += [one for one in (node.args.vararg, node.args.kwarg) if one]
    fields["parameters"] = ", ".join(one.arg for one in given)
    fields["parameters.count"] = str(len(given))
    fields["async"] = yes(isinstance(node, ast.AsyncFunctionDef))
    fields["generator"] = yes(any(isinstance(one, (ast.Yield, ast.YieldFrom)) for one in own_nodes(node.body)))
    return fields


def own_nodes(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes below, those of functions and classes inside left out."""
    todo: list[ast.AST] = list(nodes)
    while todo:
        node = todo.pop()
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            todo.extend(ast.iter_child_nodes(node))


def yes(value: object) -> str:
    return "yes" if value else "no"
