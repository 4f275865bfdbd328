"""Offline recipes from question to answer in real sandboxes, over this Python's library and 20 MB of records."""

from __future__ import annotations

import ast
import csv
import re
import statistics
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from bench import questions
from generate import KINDS, make

from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.workbench import Question, Workbench

TEXTS = Path(__file__).parents[1] / "data" / "questions" / "texts"
EXCEPTIONS = "Which modules define a class that subclasses Exception, and how many such classes are there?"
MOST_ERRORS = "Which service has the most errors?"
SIZES = {"log": 2_000_000, "kv": 20_500_000, "csv": 2_000_000, "jsonl": 2_000_000}


@pytest.fixture(scope="module")
def bench():
    bench = Workbench(Settings(model="offline/recipes"))
    yield bench
    bench.close()


def ask(bench, text, context, **more):
    live = bench.ask(Question(text, context=context, **more))
    return live.result(100), live.tree()


def test_the_question_about_the_standard_library_is_answered_exactly(bench):
    library = read_context([sysconfig.get_paths()["stdlib"]], Settings().context).value
    assert isinstance(library, dict)
    truth: Counter[str] = Counter()
    for path, text in library.items():
        if path.endswith(".py") and re.search(r"\bclass\b[^:]*\bException\b", text):
            try:
                nodes = list(ast.walk(ast.parse(text)))
            except (SyntaxError, ValueError):
                continue
            bases = [base for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
            truth[path] += sum(ast.unparse(base).split(".")[-1] == "Exception" for base in bases)
    truth = +truth
    run, tree = ask(bench, EXCEPTIONS, library)
    assert run.status == "done", run.error
    head, listed = str(run.answer).split(" subclass Exception directly: ")
    assert head == f"{truth.total()} classes in {len(truth)} modules"
    modules = [item.rsplit(" (", 1) for item in listed.split(". ")[0].split("; ")]
    assert {path: int(n.rstrip(")")) for path, n in modules} == truth
    assert "5 of 5 lines of evidence confirmed by a second look" in str(run.answer)
    assert run.outputs["slots"] == {"base": "Exception"}
    for line in run.outputs["evidence"]:
        path, number, text = str(line).split(":", 2)
        assert library[path].splitlines()[int(number) - 1].strip().startswith(text.strip()[:40])
    assert run.usage.tokens_in is None
    assert run.usage.cost is None
    assert len([call for call in tree.calls.values() if call.kind == "rlm"]) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_the_service_with_the_most_errors_is_found_in_megabytes(bench, kind):
    made = make(kind, SIZES[kind], seed=11)
    (first, most), (_, next_most) = made.errors.most_common(2)
    assert most > next_most
    run, _ = ask(bench, MOST_ERRORS, made.text)
    assert str(run.answer).startswith(f"{first} has the most records among records that match level=ERROR: {most:,}. ")
    assert "Counted in" in str(run.answer)
    assert "UNCONFIRMED" not in str(run.answer)


def test_where_an_error_is_raised_in_the_standard_library_is_answered_exactly(bench):
    library = read_context([sysconfig.get_paths()["stdlib"]], Settings().context).value
    assert isinstance(library, dict)
    truth: dict[str, list[int]] = {}
    for path, text in library.items():
        try:
            nodes = list(ast.walk(ast.parse(text))) if path.endswith(".py") and "TimeoutError" in text else []
        except (SyntaxError, ValueError):
            continue
        raised = [node for node in nodes if isinstance(node, ast.Raise) and node.exc]
        for node in raised:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            if name.split(".")[-1] == "TimeoutError":
                truth.setdefault(path, []).append(node.lineno)
    run, tree = ask(bench, "Which modules raise TimeoutError, and in which functions?", library)
    assert run.status == "done", run.error
    head = f"TimeoutError is raised {sum(map(len, truth.values()))} times in {len(truth)} modules"
    assert str(run.answer).startswith(head)
    for path, lines in truth.items():
        listed = str(run.answer).split(f"{path}: ")[1]
        assert all(str(line) in listed for line in lines)
    assert len([call for call in tree.calls.values() if call.kind == "rlm"]) == 9


def _shown(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def test_figures_of_twenty_megabytes_are_exact_and_come_from_children(bench):
    made = make("csv", SIZES["csv"], seed=13)
    rows = list(csv.DictReader(made.text.splitlines(keepends=True)))
    found = [float(row["latency_ms"]) for row in rows if row["service"] == "auth"]
    run, tree = ask(bench, "What is the median latency_ms of auth?", made.text)
    assert run.status == "done", run.error
    figures = str(run.answer).split("latency_ms: ")[1]
    assert str(run.answer).startswith("The median of latency_ms among records that match service=auth is ")
    assert f"count {len(found):,}, sum {sum(found):,.0f}, mean {_shown(statistics.fmean(found))}" in figures
    assert f"median {_shown(statistics.median(found))}" in figures
    assert len([call for call in tree.calls.values() if call.kind == "rlm"]) > 2


def test_quotations_stand_in_the_text_and_are_ranked_by_bm25_in_the_sandbox(bench):
    folder = read_context([TEXTS / "prose"], Settings().context).value
    assert isinstance(folder, dict)
    slots = {"query": "famine in the land", "parts": "3", "k": "4"}
    run, tree = ask(bench, "Quote me on the famine.", folder, recipe="search", slots=slots)
    assert run.status == "done", run.error
    assert len(run.outputs["evidence"]) == 4
    for line in run.outputs["evidence"]:
        path, number, text = str(line).split(":", 2)
        rest = " ".join(" ".join(folder[path].splitlines()[int(number) - 1 :]).split())
        assert rest.startswith(text.strip()), "word for word"
    assert "then by BM25" in str(run.answer)
    assert len([call for call in tree.calls.values() if call.kind == "rlm"]) == 4


def test_words_that_no_passage_has_together_are_no_answer(bench):
    run, _ = ask(bench, "Who sold the submarine?", (TEXTS / "prose" / "acts.txt").read_text("utf-8"))
    assert run.status == "abstained"
    assert "no passage of the text has all the words" in str(run.answer)


@pytest.mark.parametrize("at", range(3, 90, 9))
def test_the_outcomes_that_are_kept_are_those_of_today(at):
    """Ten of the ninety; `make bench` runs them all."""
    one = questions.outcomes(only=at)[0]
    kept = questions.kept()
    assert one.outcome == kept[one.id], "python tests/bench/questions.py --write"


def test_what_is_not_understood_is_abstained_and_a_corrected_slot_answers(bench):
    text = "level=ERROR service=a zone=x\nlevel=INFO service=b zone=y\n" * 10
    run, _ = ask(bench, "Where was the trouble?", text)
    assert run.status == "abstained"
    assert str(run.answer).startswith("not understood: pick a recipe")
    run, _ = ask(bench, "Where was the trouble?", text, recipe="group_by", slots={"field": "zone"})
    assert run.status == "done"
    assert str(run.answer).startswith("2 different values of zone: x: 10 (50.0 %); y: 10 (50.0 %).")


def test_at_depth_one_the_parts_are_counted_without_children():
    made = make("kv", 1_500_000, seed=12)
    bench = Workbench(Settings.model_validate({"model": "offline/recipes", "budget": {"depth": 1}}))
    try:
        run, tree = ask(bench, "How many errors are there?", made.text)
    finally:
        bench.close()
    assert str(run.answer).startswith(f"{made.by_level['ERROR']:,} of {made.records:,} records")
    assert len([call for call in tree.calls.values() if call.kind == "rlm" and call.error is None]) == 1
