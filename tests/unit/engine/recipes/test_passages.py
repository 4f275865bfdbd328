"""Prose: headings, passages, what is found and quoted, and what occurs how often."""

import json
import sys

import pytest

from fleet_rlm_jupyter.engine.recipes.parts import chosen, cut, pieces_of_part
from fleet_rlm_jupyter.engine.recipes.passages import (
    find,
    headings,
    merge_finds,
    merge_times,
    passages_of,
    stem,
    times_of,
    units_of,
)
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.records import Piece
from fleet_rlm_jupyter.engine.recipes.report_text import report_occurrences, report_search

BOOK = """Tales 1

  1 A crow sat on the fence
of an old farm.
  2 The farmer sold his cows and
bought a ship.

Tales 2

  1 The ship sank, says the crow; ships do.
  2 Nobody was buried at sea.
"""
PROSE = {
    "book.txt": BOOK,
    "notes/ships.txt": "A ship is a large boat.\n\nTo “moor” a ship means to tie it to the shore.\n",
}


def pieces(texts=None):
    return chosen(pieces_of(texts or PROSE), "text", "records")


def found(query, **slots):
    given = {"query": query, **slots}
    return report_search("search", given, find(pieces(), given))


def test_a_name_with_numbers_and_chapter_words_are_headings_and_a_lone_year_is_none():
    assert [one.title for one in headings(BOOK)] == ["Tales 1", "Tales 2"]
    assert headings("May 2021\n\nText.\n") == []
    assert [one.title for one in headings("CHAPTER IV\n\nx\n\nChapter 5: The end\n")] == ["CHAPTER IV", "Chapter 5"]
    assert [one.unit for one in headings("  0. Definitions.\n\n  1. Source Code.\n")] == ["sections", "sections"]


def test_numbered_items_are_passages_and_keep_their_lines():
    assert [line for line, _ in passages_of(Piece("prose", 1, "a", BOOK))] == [1, 3, 5, 8, 10, 11]
    assert len(list(units_of(Piece("prose", 1, "a", BOOK), "verses"))) == 4


@pytest.mark.parametrize(
    ("one", "other"), [("sold", "selling"), ("ships", "ship"), ("buried", "bury"), ("sat", "sits"), ("sitteth", "sit")]
)
def test_forms_of_a_word_are_compared_alike(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("ship", "shop"), ("house", "horse"), ("bus", "bush"), ("king", "k")])
def test_other_words_are_not(one, other):
    assert stem(one) != stem(other)


def test_a_passage_with_all_the_words_is_quoted_with_file_line_and_heading():
    report = found("crow sit", strict="yes")
    assert "book.txt:3 (Tales 1): “1 A crow sat on the fence of an old farm.”" in report.sentences[0]
    assert report.lines == [("book.txt", 3, "1 A crow sat on the fence of an old farm.")]


def test_what_is_quoted_stands_in_the_text_word_for_word():
    for path, line, text in found("ship").lines:
        whole = " ".join(" ".join(PROSE[path].split("\n")[line - 1 :]).split())
        assert whole.startswith(text)


def test_two_passages_in_a_row_are_quoted_when_only_both_have_the_words():
    assert (
        "1 A crow sat on the fence of an old farm. 2 The farmer sold" in found("fence cows", strict="yes").sentences[0]
    )


def test_no_passage_with_all_words_is_no_answer_and_the_nearest_are_named():
    report = found("crow submarine", strict="yes")
    assert report.lines == []
    assert report.sentences[0].startswith(
        "No passage has all of the words crow, submarin. Some have a part of them: book"
    )


def test_a_phrase_must_stand_as_it_is():
    assert len(found('"large boat"').lines) == 1
    assert found('"boat large"').lines == []


def test_bm25_puts_the_passage_that_is_most_about_the_words_first():
    texts = {"a.txt": f"Ships. {'Other words. ' * 30}\n\nA ship, a ship!\n\n{'Nothing here.' * 3}\n"}
    given = {"query": "ship"}
    report = report_search("search", given, find(pieces(texts), given))
    assert report.lines[0][2] == "A ship, a ship!"
    assert "then by BM25" in report.sentences[1]


def test_without_bm25s_it_is_ranked_by_words_alone_and_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    report = found("ship")
    assert "bm25s is not in this sandbox" in report.sentences[1]
    assert report.lines[0][:2] == ("book.txt", 5)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_parts_find_what_the_whole_has(parts):
    slots = {"query": "ship crow", "text": "ship|crow"}
    boxes = [pieces_of_part(box) for box in cut(pieces(), parts)]
    finds = merge_finds([json.loads(json.dumps(find(box, slots))) for box in boxes], slots)
    whole = find(pieces(), slots)
    assert [(one["path"], one["line"], one["text"]) for one in finds["kept"]] == [
        (one["path"], one["line"], one["text"]) for one in whole["kept"]
    ]
    assert (finds["full"], finds["passages"]) == (whole["full"], whole["passages"])
    times = merge_times([json.loads(json.dumps(times_of(box, slots))) for box in boxes], slots)
    everything = times_of(pieces(), slots)
    assert {**times, "files": 0, "under": ""} == {**everything, "files": 0, "under": ""}


def test_occurrences_are_whole_words_in_any_case_also_across_lines():
    done = times_of(pieces(), {"text": "ship"})
    assert (done["times"], done["exact"]) == (4, 4)
    done = times_of(pieces(), {"text": "the"})
    assert (done["times"], done["exact"], done["by_file"]) == (5, 3, {"book.txt": 4, "notes/ships.txt": 1})
    assert times_of(pieces(), {"text": "fence of"})["times"] == 1
    assert times_of(pieces(), {"text": "ship", "whole": "no"})["times"] == 5
    assert times_of(pieces(), {"text": "the", "case": "exact"})["times"] == 3


def test_what_occurs_more_often_comes_first():
    slots = {"text": "crow|ship"}
    report = report_occurrences("occurrences", slots, times_of(pieces(), slots))
    assert "Each: ship: 4; crow: 2." in report.sentences
    assert "First: book.txt:3 (Tales 1): “1 A crow sat on the fence”." in report.sentences
