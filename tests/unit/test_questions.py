"""The questions that measure the recipes stay as they were written: by somebody who had not seen the recipes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bench import questions

FOLDER = Path(__file__).parents[1] / "data" / "questions"
HELD = {
    "questions.jsonl": "4fc357966dd08e6a83c8d57dcd4c07fbc27afc14a4a28c416b7a150bcdbc709a",
    "truth.py": "59ee22c8dbabf1a549b908c950f42faaee4463cb02cc627e1acf3f89cdaccb6c",
    "texts": "fd23322e2fc74514e473e3aaeffa60bbc30c30255b88b54fbd12efc9e62b654c",
}


def test_questions_truths_and_texts_are_those_that_were_written_first():
    texts = sorted(path for path in (FOLDER / "texts").rglob("*") if path.is_file())
    parts = [path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes() for path in texts]
    found = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in ("questions.jsonl", "truth.py")}
    found["texts"] = hashlib.sha256(b"".join(parts)).hexdigest()
    assert found == HELD


def test_the_outcomes_were_taken_with_the_rules_of_today():
    head = questions.OUTCOMES.read_text("utf-8").splitlines()[0]
    assert head == f"rules\t{questions.rules()}", "run: python tests/bench/questions.py --write"


def test_at_most_one_outcome_in_twenty_is_wrong_and_every_question_has_one():
    kept = questions.kept()
    assert len(kept) == 90
    assert set(kept.values()) <= {"right", "abstained", "wrong"}
    assert 20 * list(kept.values()).count("wrong") <= len(kept)
