"""A run as text and as HTML that need no kernel, no server and no script. Every text in it is untrusted."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from fleet_rlm_jupyter.domain.calls import Call, CallTree
from fleet_rlm_jupyter.domain.lines import found_so_far
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.session import Run
from fleet_rlm_jupyter.terminal import clean, spend

MOST_CHILDREN = 24
MOST_CALLS = 400
MOST_INDENT = 40
MOST_ANSWER = 50_000
MOST_TEXT = 4_000
MOST_EVIDENCE = 50

MARKS = {"done": "✓", "failed": "✗", "cancelled": "■", "over_budget": "■", "abstained": "?"}
_WORDS = {"over_budget": "over budget"}
_KINDS = {"agent": "agent", "rlm": "RLM", "lm": "model", "tool": "tool", "code": "code"}

# Colors of JupyterLab's theme where there is one, else of what is around; all readable on light and on dark.
_MUTED = "color:inherit;opacity:.75"
_LINE = "var(--jp-border-color2, rgba(128,128,128,.4))"
_MONO = "font-family:var(--jp-code-font-family, ui-monospace, monospace);font-size:var(--jp-code-font-size, .9em)"
_BOX = (
    f"{_MONO};color:inherit;background:rgba(128,128,128,.1);border:0;border-radius:3px;margin:2px 0 4px 0;"
    "padding:4px 8px;white-space:pre-wrap;overflow-wrap:anywhere;max-height:24em;overflow:auto"
)
_ROW = "cursor:pointer;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;line-height:1.6"
_BRANCH = f"list-style:none;margin:0 0 0 .35em;padding:0 0 0 .9em;border-left:1px solid {_LINE}"
_LEAF = "list-style:none;margin:0;padding:0"
_STATUS = {
    "done": "var(--jp-success-color1, #2e8b57)",
    "failed": "var(--jp-error-color1, #d9534f)",
    "abstained": "var(--jp-info-color1, #1e88c7)",
}
_STOPPED = "var(--jp-warn-color1, #c77700)"


def as_text(run: Run, tree: CallTree, mask: Mask, where: str) -> str:
    """Status, answer, tree and spend in plain lines."""
    lines = [f"{MARKS[run.status]} {status_word(run)}", *_answer_lines(run, tree)]
    if run.error:
        lines += ["", f"error: {run.error.text}", *([f"next:  {run.error.hint}"] if run.error.hint else [])]
    lines += ["", *tree_lines(tree), "", f"{spend(run, tree)} · {where}"]
    return clean(mask("\n".join(lines)))


def tree_lines(tree: CallTree) -> Iterator[str]:
    """The recursion tree, one call a line."""
    for indent, call in _bounded(tree):
        if isinstance(call, str):
            yield "  " * min(indent, MOST_INDENT) + call
            continue
        seconds = f"  {call.seconds:.2f} s" if call.seconds is not None else ""
        line = f"{'  ' * min(indent, MOST_INDENT)}{_KINDS.get(call.kind or '', '…')} {_name(call)}{seconds}"
        yield f"{line}  {'✗ ' if call.error else ''}{_gist(call)}"[:160].rstrip()


def as_html(run: Run, tree: CallTree, mask: Mask, where: str) -> str:
    """The same, as nested lists that fold. Inline styles only; no script, no link, nothing from outside."""
    color = _STATUS.get(run.status, _STOPPED)
    parts = [
        '<div style="color:var(--jp-content-font-color1, inherit);font-size:var(--jp-content-font-size1, 14px);'
        'line-height:1.5;max-width:64em;padding:2px 7px">',
        f'<div><strong style="color:{color}">{MARKS[run.status]} {status_word(run)}</strong> '
        f'<span style="{_MUTED}">{_text(run.question, mask, 400)}</span></div>',
        _answer(run, tree, mask),
        _error(run, mask),
        _evidence(run, mask),
        f'<details open style="margin:6px 0"><summary style="cursor:pointer"><strong>Recursion tree</strong> '
        f'<span style="{_MUTED}">{_extent(tree)}</span></summary>',
        *_html_tree(tree, mask),
        "</details>",
        f'<div style="{_MUTED};font-size:.9em">{_text(f"{spend(run, tree)} · {where}", mask)}</div></div>',
    ]
    return "".join(parts)


def tree_html(tree: CallTree, mask: Mask) -> str:
    """Only the tree."""
    style = "color:var(--jp-content-font-color1, inherit);padding:2px 7px"
    return f'<div style="{style}">{"".join(_html_tree(tree, mask))}</div>'


def status_word(run: Run) -> str:
    return _WORDS.get(run.status, run.status)


def _answer_lines(run: Run, tree: CallTree) -> list[str]:
    if run.answer is not None:
        return ["", run.answer]
    found = found_so_far(tree)
    return ["", "No answer. Found so far:", found] if found else []


def _answer(run: Run, tree: CallTree, mask: Mask) -> str:
    style = (
        "white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0;padding:6px 10px;"
        f"border-left:3px solid {_STATUS.get(run.status, _STOPPED)};background:rgba(128,128,128,.08)"
    )
    if run.answer is not None:
        return f'<div style="{style}">{_text(run.answer, mask, MOST_ANSWER)}</div>'
    found = found_so_far(tree)
    if not found:
        return ""
    return f'<div style="{style}"><strong>No answer. Found so far:</strong>\n{_text(found, mask, MOST_TEXT)}</div>'


def _error(run: Run, mask: Mask) -> str:
    if run.error is None:
        return ""
    hint = f'<br><span style="{_MUTED}">next: {_text(run.error.hint, mask)}</span>' if run.error.hint else ""
    return f'<div style="margin:6px 0"><strong>error:</strong> {_text(run.error.text, mask)}{hint}</div>'


def _evidence(run: Run, mask: Mask) -> str:
    recipe, slots, evidence = (run.outputs.get(name) for name in ("recipe", "slots", "evidence"))
    if not recipe:
        return ""
    given = " ".join(f"{name}={value}" for name, value in slots.items()) if isinstance(slots, dict) else ""
    head = f"recipe {recipe} {given}".strip()
    lines = [str(line) for line in evidence] if isinstance(evidence, list) else []
    shown = "\n".join(lines[:MOST_EVIDENCE]) + (f"\n… {len(lines) - MOST_EVIDENCE} more" * (len(lines) > MOST_EVIDENCE))
    count = f" · {len(lines)} line{'' if len(lines) == 1 else 's'} of evidence" if lines else ""
    summary = f'<span style="{_MUTED}">{_text(head + count, mask)}</span>'
    if not lines:
        return f"<div>{summary}</div>"
    body = f'<pre style="{_BOX}">{_text(shown, mask, MOST_ANSWER)}</pre>'
    return f'<details><summary style="cursor:pointer">{summary}</summary>{body}</details>'


def _html_tree(tree: CallTree, mask: Mask) -> Iterator[str]:
    """`<ul><li>…` without recursion: a hostile trace may be deeper than Python's own stack."""
    yield f'<ul style="{_BRANCH}">'
    level, is_open = 0, False
    for indent, call in _bounded(tree):
        # Below MOST_INDENT all is one level: browsers give up on deep nesting long before.
        at = min(indent, MOST_INDENT)
        if is_open and at > level:
            yield f'<ul style="{_BRANCH}">'
            level += 1
        elif is_open:
            yield "</details></li>"
            while level > at:
                yield "</ul></details></li>"
                level -= 1
        yield f'<li style="{_LEAF}">'
        is_open = True
        if isinstance(call, str):
            yield f'<details><summary style="{_ROW}"><span style="{_MUTED}">{escape(call)}</span></summary>'
        else:
            yield _html_call(call, mask)
    if is_open:
        yield "</details></li>"
    yield "</ul></details></li>" * level + "</ul>"


def _html_call(call: Call, mask: Mask) -> str:
    seconds = "" if call.seconds is None else f' <span style="{_MUTED}">{call.seconds:.2f} s</span>'
    failed = f'<span style="color:{_STATUS["failed"]}">✗ ' if call.error else f'<span style="{_MUTED}">'
    row = (
        f'<summary style="{_ROW}"><strong>{_KINDS.get(call.kind or "", "…")}</strong> '
        f"{_text(_name(call), mask, 80)}{seconds} {failed}{_text(_gist(call), mask, 160)}</span></summary>"
    )
    boxes = "".join(
        f'<div style="{_MUTED};font-size:.85em">{_text(title, mask, 80)}</div>'
        f'<pre style="{_BOX}">{_text(text, mask)}</pre>'
        for title, text in _boxes(call)
        if text.strip()
    )
    if not call.children:
        return f"<details>{row}{boxes}"
    summary = f'<summary style="cursor:pointer;{_MUTED}">what went in and out</summary>'
    inside = f'<details style="margin-left:1.25em;font-size:.9em">{summary}{boxes}</details>'
    return f"<details open>{row}{inside if boxes else ''}"


def _boxes(call: Call) -> Iterator[tuple[str, str]]:
    for name, text in call.inputs.items():
        yield name, text
    for name, text in call.texts.items():
        yield name, text
    if call.error:
        yield "error", f"{call.error.text}\n{call.error.hint}"
    if call.outputs and call.outputs.strip() != call.texts.get("stdout", "").strip():
        yield "result", call.outputs


def _bounded(tree: CallTree) -> Iterator[tuple[int, Call | str]]:
    """The tree, depth first; what is too much of it is counted instead."""
    stack: list[tuple[int, Call | str]] = [(0, call) for call in reversed(tree.roots)]
    shown = 0
    while stack:
        if shown == MOST_CALLS:
            yield 0, f"… {len(tree.calls) - shown:,} more calls, see result.tree"
            return
        indent, call = stack.pop()
        yield indent, call
        shown += 1
        if isinstance(call, Call):
            rest = len(call.children) - MOST_CHILDREN
            if rest > 0:
                stack.append((indent + 1, f"… {rest} more"))
            stack.extend((indent + 1, child) for child in reversed(call.children[:MOST_CHILDREN]))


def _extent(tree: CallTree) -> str:
    depth = max((call.depth for call in tree.calls.values()), default=0)
    count = len(tree.calls)
    return f"{count:,} call{'' if count == 1 else 's'}, depth {depth}"


def _name(call: Call) -> str:
    return f"depth {call.depth}" if call.kind == "rlm" else call.name


def _gist(call: Call) -> str:
    """One line that says what this call was about."""
    if call.error:
        text = call.error.text
    elif call.kind == "code":
        text = call.inputs.get("code", "")
    else:
        text = call.texts.get("thought") or call.outputs
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _text(text: str, mask: Mask, most: int = MOST_TEXT) -> str:
    """`text` as HTML that is only text. Masked before it is cut, so that no half of a key is left."""
    text = clean(mask(text))
    if len(text) > most:
        text = f"{text[:most]} … {len(text) - most:,} characters left out"
    return escape(text, quote=True)
