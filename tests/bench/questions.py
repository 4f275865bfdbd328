"""How the offline recipes do on questions that nobody who wrote them had seen: right, abstained and wrong by kind.

Wrong is what counts: an answer that is not the truth, or any answer to a question no deterministic program can answer.
The outcome of every question is kept in tests/data/outcomes.tsv; `--write` puts down the new one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from fleet_rlm_jupyter.engine import offline
from fleet_rlm_jupyter.settings import Settings, StoreSettings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes
from fleet_rlm_jupyter.workbench import Question, Workbench

DATA = Path(__file__).parents[1] / "data"
QUESTIONS = DATA / "questions"
OUTCOMES = DATA / "outcomes.tsv"
OUTCOME_NAMES = ("right", "abstained", "wrong", "failed")
SEEN_EVERY = 3
"""Whoever widened the rules read every third question (the first, the fourth, …) and no other."""


class Outcome(NamedTuple):
    """How one question went. `seen`: read by whoever wrote the rules."""

    id: str
    kind: str
    is_seen: bool
    outcome: str


def main() -> None:
    found = outcomes("-v" in sys.argv)
    show(found)
    before = kept()
    for one in found:
        if one.outcome != before.get(one.id):
            print(f"{one.id}: {one.outcome}, kept is {before.get(one.id)}")
    if "--write" in sys.argv:
        write(found)


def outcomes(is_verbose: bool = False, only: int | None = None) -> list[Outcome]:
    """Ask all questions, or the one at that place, through the whole Workbench."""
    truth = _truth()
    folder = tempfile.TemporaryDirectory(prefix="fleet-bench-", ignore_cleanup_errors=True)
    store = StoreSettings(url=f"sqlite:///{folder.name}/fleet.db")  # not among the user's own runs
    bench = Workbench(Settings(model="offline/recipes", store=store), UnisolatedSandboxes())
    found: list[Outcome] = []
    for at, question in enumerate(truth.questions()):
        if only is not None and at != only:
            continue
        run = bench.ask(Question(question["question"], paths=[_path(question["data"])])).result(120)
        is_seen = at % SEEN_EVERY == 0
        found.append(Outcome(question["id"], question["kind"], is_seen, _outcome(question, run, truth)))
        if is_verbose and is_seen:
            print(f"{found[-1].outcome:<10}{question['id']:<10}{question['question'][:70]}")
            print(f"  → {(run.answer or '')[:300]}")
    bench.close()
    folder.cleanup()
    return found


def show(found: list[Outcome]) -> None:
    """Print the table: by kind, and apart those that were read before the rules were widened."""
    print(f"{'questions':<22}" + "".join(f"{name:>11}" for name in OUTCOME_NAMES))
    rows = {kind: [one for one in found if one.kind == kind] for kind in sorted({one.kind for one in found})}
    rows["read beforehand"] = [one for one in found if one.is_seen]
    rows["never read"] = [one for one in found if not one.is_seen]
    rows["all"] = found
    for name, some in rows.items():
        counts = Counter(one.outcome for one in some)
        print(f"{name:<22}" + "".join(f"{counts[outcome]:>11}" for outcome in OUTCOME_NAMES))
    wrong = sum(one.outcome == "wrong" for one in found)
    print(f"wrong: {wrong} of {len(found)} ({100 * wrong / len(found):.1f} %, aim ≤ 5 %)")


def write(found: list[Outcome]) -> None:
    lines = [f"{one.id}\t{one.kind}\t{'read' if one.is_seen else 'unread'}\t{one.outcome}" for one in found]
    head = [f"rules\t{rules()}", "id\tkind\tbefore the rules were widened\toutcome"]
    OUTCOMES.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


def kept() -> dict[str, str]:
    """The outcomes in the file, by question."""
    return {line.split("\t")[0]: line.split("\t")[3] for line in OUTCOMES.read_text("utf-8").splitlines()[2:]}


def rules() -> str:
    """A digest of the rules: any change of them makes the outcomes stale."""
    folder = Path(offline.__file__).parent
    files = [folder / "offline.py", *sorted((folder / "recipes").glob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _outcome(question: dict[str, Any], run: Any, truth: Any) -> str:
    if run.status == "abstained":
        return "abstained"
    if run.status != "done" or not question["answerable"]:
        return "wrong" if run.status == "done" else "failed"
    return "right" if truth.judge(run.answer or "", truth.truth_of(question)) else "wrong"


def _path(data: str) -> Path:
    if data.startswith("stdlib:"):
        return Path(sysconfig.get_path("stdlib"), data.removeprefix("stdlib:"))
    return QUESTIONS / "texts" / data


def _truth() -> Any:
    spec = importlib.util.spec_from_file_location("truth", QUESTIONS / "truth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
