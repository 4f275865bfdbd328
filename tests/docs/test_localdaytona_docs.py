"""The pages about the local server say what it does."""

from __future__ import annotations

import re
from pathlib import Path

from attack.test_localdaytona_attacks import ATTACKS, NOT_STOPPED

from fleet_rlm_jupyter.localdaytona.faults import FAULTS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_fault_is_documented_with_what_it_reads() -> None:
    page = (DOCS / "reference" / "localdaytona.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| *([^|]*?) *\|", page, re.MULTILINE)
    assert {name: tuple(reads.split(", ")) if reads.strip() else () for name, reads in rows} == {
        name: reads for name, (_, reads) in FAULTS.items()
    }


def test_the_page_on_isolation_says_what_the_attack_suite_shows() -> None:
    page = (DOCS / "explanation" / "isolation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (stopped|works) \| (stopped|works) \| (stopped|works) \|$", page, re.MULTILINE)
    assert {name: how for name, *how in rows} == {
        name: ["works" if name in NOT_STOPPED[level] else "stopped" for level in ("L1", "L2", "L3")] for name in ATTACKS
    }
