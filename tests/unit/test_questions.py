"""The questions that measure the recipes stay as they were written: by somebody who had not seen the recipes."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
