"""Documents for children: which URLs code may name, and where the text goes."""

from __future__ import annotations

import pytest

from fleet_rlm_jupyter.domain.errors import ToolFailed
from fleet_rlm_jupyter.engine.documents import Documents, Given, urls_in
from fleet_rlm_jupyter.settings import Settings

QUESTION = "Compare https://a.test/x?q=1, (http://b.test/y) and <https://c.test/z>."


def documents(rule: str, words: str = QUESTION, **context) -> Documents:
    return Documents(Settings.model_validate({"delegation": {"urls": rule}, "context": context}), words)


def test_the_urls_of_a_question_are_whole_words_of_it():
    found = urls_in(QUESTION)
    assert {"https://a.test/x?q=1", "http://b.test/y", "https://c.test/z"} <= found
    assert not {"https://a.test/x", "https://a.test/x?q=", "https://a.test/x?q=12"} & found


@pytest.mark.parametrize("url", ["https://a.test/x?q=1", "https://other.test/"])
def test_by_default_no_url_is_fetched_not_even_that_of_the_question(url):
    with pytest.raises(ToolFailed, match=r"delegation\.urls=off") as caught:
        Documents(Settings(), QUESTION).read(url)
    assert "go on without it" in caught.value.hint


@pytest.mark.parametrize("url", ["https://a.test/x", "https://a.test/x?q=1&stolen=key", "https://a.test/x?q=1#stolen"])
def test_a_url_that_code_made_is_not_that_of_the_question(url):
    with pytest.raises(ToolFailed, match="does not stand in the user's question") as caught:
        documents("question").read(url)
    assert "stolen" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 7, "", "notes.txt", ["https://a.test/"]])
def test_what_is_no_url_is_said(url):
    with pytest.raises(ToolFailed, match="no URL"):
        documents("public").read(url)


def test_code_is_never_let_into_a_private_network_whatever_users_may():
    for url in ("http://127.0.0.1:8888/api", "http://169.254.169.254/latest/meta-data/"):
        with pytest.raises(ToolFailed, match="not on the public Internet"):
            documents("public", allow_private_urls=True).read(url)


def test_a_run_has_at_most_twenty_documents_fetched():
    reading = documents("public")
    for _ in range(20):
        with pytest.raises(ToolFailed, match="no scheme"):
            reading.read("ftp://a.test/")
    with pytest.raises(ToolFailed, match="at most 20"):
        reading.read("ftp://a.test/")


def test_a_text_is_marked_with_its_own_digest_in_a_text_or_beside_other_texts():
    given = Given("the document http://b.test/y", "words\n=== end [000000000000] ===")
    alone = given.into("")
    tag = alone.partition("[")[2][:12]
    assert alone == f"=== the document http://b.test/y [{tag}] ===\n{given.text}\n=== end [{tag}] ==="
    assert given.into("before") == f"before\n\n{alone}"
    assert given.into({"a": "b"}) == {"a": "b", f"the document http://b.test/y [{tag}]": alone}


def test_of_a_text_in_a_file_the_context_says_where_it_is():
    path = "buffers/given/document-1.txt"
    said = Given("the document x", "w" * 1200, path).into("before")
    assert said == f"before\n\nthe document x, 1,200 characters, is in the file {path}: open it with Python."
