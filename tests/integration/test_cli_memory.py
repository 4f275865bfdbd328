"""`fleet memory` as a user types it, and a question that is told of it."""

from __future__ import annotations

import json

import pytest
from scripted_model import ScriptedModel

ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


@pytest.fixture
def fleet(fleet, monkeypatch, tmp_path):
    """With a store of the test's own."""
    monkeypatch.setenv("FLEET_STORE__URL", f"sqlite:///{tmp_path}/fleet.db")
    return fleet


def test_what_is_remembered_is_told_to_the_next_question_until_it_is_rejected(fleet, monkeypatch):
    with ScriptedModel(lambda prompt: ANSWER) as model:
        for name, value in model.settings.items():
            monkeypatch.setenv(f"FLEET_{name.upper()}", str(value))
        code, out, err = fleet("memory", "add", "Totals are in thousands.", "--kind", "fact")
        assert (code, err) == (0, "")
        memory_id = out.split()[0]
        code, _, err = fleet("ask", "how many?", "--mode", "direct")
        assert code == 0
        assert "1 of 1 notes from memory" in err
        assert "- (fact) Totals are in thousands." in model.prompts[-1]
        assert "rejected" in fleet("memory", "reject", memory_id[:10])[1]
        assert fleet("ask", "how many?", "--mode", "direct")[0] == 0
        assert "Totals" not in model.prompts[-1]


def test_items_are_listed_by_state_and_forgotten(fleet):
    assert fleet("memory", "list")[2].startswith("nothing is there")
    for text in ("one", "two \x1b[31m"):
        assert fleet("memory", "add", text)[0] == 0
    listed = json.loads(fleet("memory", "list", "--json")[1])["items"]
    assert [item["text"] for item in listed] == ["two \x1b[31m", "one"]
    assert "\x1b" not in fleet("memory", "list")[1]
    assert fleet("memory", "list", "--state", "proposed")[1] == ""
    code, out, _ = fleet("memory", "delete", *(item["memory_id"] for item in listed))
    assert (code, out.count("forgotten")) == (0, 2)
    code, _, err = fleet("memory", "approve", listed[0]["memory_id"])
    assert code == 2
    assert "there is no item" in err
    assert fleet("memory", "add", "")[0] == 2
    assert fleet("memory", "add", "x", "--session", "s-nobody")[0] == 2
