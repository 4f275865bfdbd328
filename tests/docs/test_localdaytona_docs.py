"""The pages about the local server say what it does."""

from __future__ import annotations

import re
from pathlib import Path

from fleet_rlm_jupyter.localdaytona.faults import FAULTS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_fault_is_documented_with_what_it_reads() -> None:
    page = (DOCS / "reference" / "localdaytona.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| *([^|]*?) *\|", page, re.MULTILINE)
    assert {name: tuple(reads.split(", ")) if reads.strip() else () for name, reads in rows} == {
        name: reads for name, (_, reads) in FAULTS.items()
    }
