"""How the offline recipes do on questions that nobody who wrote them had seen: right, abstained and wrong by kind.

Wrong is what counts: an answer that is not the truth, or any answer to a question no deterministic program can answer.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes
from fleet_rlm_jupyter.workbench import Question, Workbench

QUESTIONS = Path(__file__).parents[1] / "data" / "questions"


def main() -> None:
    truth = _truth()
    bench = Workbench(Settings(model="offline/recipes"), UnisolatedSandboxes())
    outcomes: Counter[tuple[str, str]] = Counter()
    for question in truth.questions():
        run = bench.ask(Question(question["question"], paths=[_path(question["data"])])).result(120)
        outcome = _outcome(question, run, truth)
        outcomes[question["kind"], outcome] += 1
        if outcome == "wrong" or "-v" in sys.argv:
            print(f"{outcome:<10}{question['id']:<14}{question['question'][:70]}\n{'':<10}→ {(run.answer or '')[:150]}")
    _print(outcomes)


def _outcome(question: dict[str, Any], run: Any, truth: Any) -> str:
    if run.status == "abstained":
        return "abstained"
    if run.status != "done" or not question["answerable"]:
        return "wrong" if run.status == "done" else "failed"
    return "right" if truth.judge(run.answer or "", truth.truth_of(question)) else "wrong"


def _print(outcomes: Counter[tuple[str, str]]) -> None:
    names = ("right", "abstained", "wrong", "failed")
    print(f"{'kind':<12}" + "".join(f"{name:>11}" for name in names))
    for kind in (*sorted({kind for kind, _ in outcomes}), "all"):
        counts = [sum(n for (k, o), n in outcomes.items() if o == name and kind in (k, "all")) for name in names]
        print(f"{kind:<12}" + "".join(f"{count:>11}" for count in counts))
    total = outcomes.total()
    wrong = sum(count for (_, outcome), count in outcomes.items() if outcome == "wrong")
    print(f"wrong: {wrong} of {total} ({100 * wrong / total:.1f} %, aim ≤ 5 %)")


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
