"""Signatures and names of programs: what can be kept, and that nothing is looked up to find out."""

from __future__ import annotations

import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.program import fields_of, parted


@pytest.mark.parametrize(
    ("signature", "fields"),
    [
        ("question -> answer", (["question"], ["answer"])),
        ("context, question: str -> answer: int, why: list[str]", (["context", "question"], ["answer", "why"])),
        ("a: Literal['x', 'y'] -> b: dict[str, int] | None", (["a"], ["b"])),
        (" a\n->\n b ", (["a"], ["b"])),
    ],
)
def test_a_signature_names_its_fields(signature, fields):
    assert fields_of(signature) == fields


@pytest.mark.parametrize(
    "signature",
    [
        "", "a", "->", "a ->", "-> b", "a -> b -> c", "a -> a", "a, a -> b", "a=1 -> b", "*a -> b", "**a -> b",
        "a, / -> b", "a, *, c -> b", "1 -> b", "a b -> c", "a): pass\ndef g(x -> b", "a: os.system -> b",
        "a: Path -> b", "a -> b: x()", "a -> b: __import__('os')", "a -> b: list[lambda: 1]",
        "a -> b: [int for _ in y]", "a\0 -> b",
        "a: " + "list[" * 5000 + " -> b",
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(signature):
    with pytest.raises(BadRequest):
        fields_of(signature)


def test_a_name_may_say_its_version():
    assert parted("qa") == ("qa", None)
    assert parted("qa@12") == ("qa", 12)
    for bad in ("qa@", "qa@x", "qa@-1", "qa@1@2", "qa@²", "qa@99999999999"):
        with pytest.raises(BadRequest):
            parted(bad)
