"""Reading text as records."""

import csv
import io

import pytest
from generate import KINDS, make
from hypothesis import example, given
from hypothesis import strategies as st

from fleet_rlm_jupyter.engine.recipes.conditions import holds, parse_where
from fleet_rlm_jupyter.engine.recipes.parts import cut, pieces_of_part
from fleet_rlm_jupyter.engine.recipes.profile import fitted, profile
from fleet_rlm_jupyter.engine.recipes.records import (
    RECORD_KINDS,
    Piece,
    kind_of,
    read_log_line,
    read_rows,
)
from fleet_rlm_jupyter.engine.recipes.tally import merge_tallies, tally

TIME = "2026-11-01T10:00:00Z"


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (f"{TIME} ERROR [pay] boom", {"level": "ERROR", "bracket1": "pay"}),
        (f"{TIME} [pay] ERROR boom", {"level": "ERROR", "bracket1": "pay"}),
        ("2026-11-01 10:00:00,123 - pay - ERROR - boom: x", {"level": "ERROR", "prefix": "pay"}),
        (f"{TIME} | ERROR | pay | boom", {"level": "ERROR", "prefix": "pay"}),
        ("ERROR:pay:boom", {"level": "ERROR", "prefix": "pay"}),
        ("Nov  1 10:00:00 web1 sshd[12]: closed", {"host": "web1", "prefix": "sshd"}),
        (f"{TIME} [main] WARN com.acme.Pay - boom", {"bracket1": "main", "level": "WARN", "prefix": "com.acme.Pay"}),
        ("2026/11/01 10:00:00 [error] 12#0: failed", {"level": "error"}),
        (f"{TIME} ERROR pay boom", {"level": "ERROR"}),
        ('level=INFO msg="level=ERROR here" level=WARN', {"level": "INFO", "msg": "level=ERROR here"}),
        (f"{TIME} INFO [pay] saw level=ERROR", {"level": "INFO", "bracket1": "pay"}),
        ('msg="say \\"hi\\"" n=3,', {"msg": 'say "hi"', "n": "3"}),
        ("    at com.acme.Pay(Pay.java:12)", {}),
    ],
)
def test_the_head_of_a_line_is_read_and_its_message_is_not(line, fields):
    assert read_log_line(line) == fields


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_told_by_its_text_alone(kind):
    assert kind_of("", make(kind, 20_000).text).startswith(kind)


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("a.py", "", "python"),
        ("", "import os\nX = {\n}\n", "python"),
        ("", '"""License.\n\nLong."""\n\nclass A(B):\n    pass\n', "python"),
        ("", "import that is prose\nand not Python\n", "text"),
        ("", "It was a dark night; a = 1.\nThe end.\n", "text"),
        ("a.md", "# Title\n\nSome words, and more.\n", "text"),
        ("", "", "text"),
        ("a.tsv", "a\tb\n1\t2\n3\t4\n", "csv-tab"),
        ("", "a;b\n1;2\n3;4\n", "csv-semicolon"),
        ("", "1,2\n3,4\n", "text"),
    ],
)
def test_other_texts_have_their_kind(path, text, kind):
    assert kind_of(path, text) == kind


def test_json_lines_are_flat_and_unreadable_ones_are_marked():
    piece = Piece("jsonl", 1, "a", '{"a": {"b": true}, "c": null, "d": [1], "e": 2.5}\n\n[1]\n{"a"\n')
    assert [(row.line, row.fields) for row in read_rows(piece)] == [
        (1, {"a.b": "true", "d": "1", "d.count": "1", "e": "2.5"}),
        (3, None),
        (4, None),
    ]


def test_csv_rows_know_their_first_line_and_wrong_ones_are_marked():
    piece = Piece("csv-comma", 1, "a", '\ufeffa,b\r\n1,"x\r\ny"\r\n2\r\n3,z\r\n')
    rows = [(row.line, row.fields) for row in read_rows(piece)]
    assert rows == [(2, {"a": "1", "b": "x\ny"}), (4, None), (5, {"a": "3", "b": "z"})]


cells = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20))
def test_csv_is_read_as_the_csv_module_wrote_it(rows):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("one", "two"), *rows])
    found = [row.fields for row in read_rows(Piece("csv-comma", 1, "a", out.getvalue()))]
    full = [{"one": one, "two": two} for one, two in rows]
    assert found == [{name: cell for name, cell in row.items() if cell.strip()} for row in full]


@pytest.mark.parametrize(
    ("where", "value", "is_met"),
    [
        ("a=ERROR", "error", True),
        ("a=ERROR|warn", "WARN", True),
        ("a=500", "500.0", True),
        ("a=007", "7", False),
        ("a!=x", "y", True),
        ("a!=x", None, False),
        ("a~Time", "Timeout", True),
        ("a~time", "Timeout", False),
        ("a>10", "9", False),
        ("a>=10", "10", True),
        ("a<10", "nan", False),
        ("a<10", "soon", False),
        ('a="x y|z"', "x y|z", True),
    ],
)
def test_conditions(where, value, is_met):
    (test,) = parse_where(where)
    assert holds(test, value) is is_met


@pytest.mark.parametrize(
    "where", ["a", "a=", "=b", "a=b c=d", "a=b and", "a=b or c=d", "a>b", "a>1|2", "a=b and and c=d"]
)
def test_conditions_that_cannot_be_read_are_refused(where):
    with pytest.raises(ValueError):
        parse_where(where)


bits = ["\n", "\r\n", "\r", '"', ",", "a,b", "level=", "[", "{", '{"a": ', "2026-11-01 ", "ERROR ", "\0", "<"]


@example(",\n\r\r\n", "")
@given(st.lists(st.one_of(st.sampled_from(bits), st.text(max_size=5)), max_size=30).map("".join), st.text(max_size=20))
def test_no_text_is_too_strange_to_be_looked_at_counted_and_cut(text, question):
    fitted(profile({"a": text, "b.csv": text}, question))
    fitted(profile(text, question))
    for kind in (*RECORD_KINDS, "text"):
        piece = Piece(kind, 1, "a", text)
        merged = merge_tallies([tally(pieces_of_part(box), {"field": "a"}) for box in cut([piece], 3)], {"field": "a"})
        whole = tally([piece], {"field": "a"})
        assert (merged["records"], merged["unread"]) == (whole["records"], whole["unread"])
