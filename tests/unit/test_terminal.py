"""What a terminal shows of a run, and that nothing in it drives the terminal."""

from __future__ import annotations

import pytest

from fleet_rlm_jupyter import terminal
from fleet_rlm_jupyter.domain.budget import Budget
from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import (
    ArtifactWritten,
    CallEnded,
    CallStarted,
    CallText,
    Event,
    Limits,
    RunEnded,
    RunStarted,
    Usage,
)
from fleet_rlm_jupyter.domain.lines import progress_line
from fleet_rlm_jupyter.domain.session import Run


def events(*facts):
    return [
        Event(seq=seq, at=float(seq), session_id="s", run_id="r-1", call_id=call_id, fact=fact)
        for seq, (call_id, fact) in enumerate(facts)
    ]


def rlm(depth, parent=None):
    return CallStarted(parent_id=parent, kind="rlm", name="rlm", depth=depth)


def shown(facts, capsys, **run):
    tree = fold(events(*facts))
    given = {"status": "done", "answer": "42", "usage": Usage(calls=3, seconds=1.5), "model": "m", "sandbox": "here"}
    ended = Run(run_id="r-1", session_id="s", program="ask", question="?", **{**given, **run})
    terminal.print_run(ended, tree)
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


STARTED = (None, RunStarted(program="ask", message="?", model="m", limits=Limits(), isolation="here"))


def test_answer_tree_and_spend_are_shown(capsys):
    facts = [
        STARTED,
        ("a", rlm(1)),
        ("b", CallStarted(parent_id="a", kind="code", name="python", depth=1, inputs={"code": "print(1)"})),
        ("b", CallEnded(outputs="1")),
        ("a", CallEnded(outputs="42")),
        (None, Budget(Limits()).spent()),
        (None, RunEnded(status="done", answer="42")),
    ]
    out = shown(facts, capsys)
    assert out.startswith("42\n")
    assert "✓ done  r-1" in out
    assert "RLM depth 1  3.00 s  42" in out
    assert "    └── code python  1.00 s  print(1)" in out
    assert "3 of 150 LM calls · tokens unknown · cost unknown · 1.5 s" in out


def test_what_is_unknown_is_never_shown_as_zero(capsys):
    out = shown([STARTED], capsys, usage=Usage(calls=2))
    assert "tokens unknown" in out
    assert "cost unknown" in out
    priced = shown([STARTED], capsys, usage=Usage(calls=2, tokens_in=1200, tokens_out=34, cost=0.0))
    assert "tokens 1,200 in, 34 out" in priced
    assert "cost $0.0000" in priced


def test_without_an_answer_the_last_output_at_the_top_is_shown(capsys):
    facts = [
        STARTED,
        ("a", rlm(1)),
        ("b", CallStarted(parent_id="a", kind="code", name="python", depth=1)),
        ("b", CallText(channel="stdout", text="half of it")),
        ("c", rlm(2, "b")),
        ("d", CallStarted(parent_id="c", kind="code", name="python", depth=2)),
        ("d", CallEnded(outputs="a child's business")),
    ]
    out = shown(facts, capsys, status="cancelled", answer=None)
    assert "No answer. Found so far:\n  half of it" in out
    assert "■ cancelled" in out


def test_many_children_are_counted_after_those_that_are_shown(capsys):
    many = [(f"c{number}", rlm(2, "a")) for number in range(terminal.MOST_CHILDREN + 5)]
    lines = shown([STARTED, ("a", rlm(1)), *many], capsys).splitlines()
    assert sum("RLM depth 2" in line for line in lines) == terminal.MOST_CHILDREN
    assert "… 5 more" in lines[-2]


def test_model_output_cannot_drive_the_terminal(capsys):
    evil = "\x1b[2J\x1b]0;owned\x07 \u202egnp.exe [bold red]not markup[/]"
    facts = [
        STARTED,
        ("a", rlm(1)),
        ("b", CallStarted(parent_id="a", kind="code", name=evil, depth=1, inputs={"code": evil})),
        ("a", CallEnded(outputs=evil)),
    ]
    out = shown(facts, capsys, answer=evil)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J" in out
    assert "[bold red]not markup[/]" in out


def test_a_trace_deeper_than_pythons_stack_is_shown(capsys):
    deep = [("0", rlm(1)), *((str(n), rlm(n, str(n - 1))) for n in range(1, 1500))]
    assert "3 LM calls" in shown([STARTED, *deep], capsys)


def test_of_a_traceback_the_line_that_says_what_happened_is_shown(capsys):
    error = ErrorText(
        code="x", text='CodeExecutionError: Traceback (most recent call last):\n  File "x"\nKeyError: 3\n', hint=""
    )
    facts = [
        STARTED,
        ("b", CallStarted(parent_id=None, kind="code", name="python", depth=1)),
        ("b", CallEnded(error=error)),
    ]
    out = shown(facts, capsys, status="failed", answer=None)
    assert "KeyError: 3" in out
    assert "Traceback" not in out
    assert progress_line(events(*facts)[-1]) == "  ✗ KeyError: 3"


def test_a_file_that_a_cell_wrote_is_a_line():
    written = ArtifactWritten(path="artifacts/t.csv", bytes=1234, sha256="ab" * 32)
    assert progress_line(events(STARTED, ("b", written))[-1]) == (
        "  artifacts/t.csv was written: 1,234 bytes, sha256 abababababab"
    )
