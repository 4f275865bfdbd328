"""A Jupyter notebook as a text: its cells and what they printed, each under a line that says which it is."""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPES = re.compile("\x1b\\[[0-9;?]*[ -/]*[@-~]")
_READABLE = ("text/plain", "text/markdown", "text/latex", "application/json")


def notebook_text(raw: str) -> str | None:
    """The cells and text outputs of the notebook `raw`, or None when it is no notebook.

    A cell begins with `# %% [KIND] cell N`, an output with `# %% [output] cell N`, as editors write notebooks to
    Python files. An output that is no text (a picture, a widget) is named, not shown.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("nbformat"), int):
        return None
    cells = found.get("cells")
    if cells is None:  # nbformat 3 and older
        cells = [cell for sheet in _dicts(found.get("worksheets")) for cell in _dicts(sheet.get("cells"))]
    return "\n".join(part for number, cell in enumerate(_dicts(cells), 1) for part in _cell(cell, number))


def _cell(cell: dict[str, Any], number: int) -> list[str]:
    kind = str(cell.get("cell_type", "raw"))
    source = _joined(cell.get("source", cell.get("input")))
    parts = [f"# %% [{kind}] cell {number}\n{_ended(source)}"]
    outputs = [said for output in _dicts(cell.get("outputs")) if (said := _output(output))]
    if outputs:
        parts.append(f"# %% [output] cell {number}\n{''.join(map(_ended, outputs))}")
    return parts


def _output(output: dict[str, Any]) -> str:
    kind = output.get("output_type")
    if kind in ("stream", "error", "pyerr"):
        text = _joined(output.get("text", output.get("traceback")), "\n" if kind != "stream" else "")
        if kind != "stream" and not text:
            text = f"{output.get('ename', 'error')}: {output.get('evalue', '')}"
        return _ESCAPES.sub("", text)
    data = output.get("data")
    if not isinstance(data, dict):  # nbformat 3 has the types beside the rest
        data = {"text/plain": output["text"]} if "text" in output else {}
    for name in _READABLE:
        if name in data:
            value = data[name]
            text = json.dumps(value, ensure_ascii=False) if name == "application/json" else _joined(value)
            return _ESCAPES.sub("", text)
    return f"({', '.join(map(str, data))} left out)" if data else ""


def _joined(value: object, by: str = "") -> str:
    if isinstance(value, list):
        return by.join(str(line) for line in value)
    return value if isinstance(value, str) else ""


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
