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


def test_a_question_is_frozen_asked_again_and_made_a_row(fleet, monkeypatch, tmp_path):
    (tmp_path / "c.txt").write_text("some text", encoding="utf-8")
    with ScriptedModel(lambda prompt: ANSWER) as model:
        for name, value in model.settings.items():
            monkeypatch.setenv(f"FLEET_{name.upper()}", str(value))
        asked = fleet("ask", "how many?", "--context", "c.txt", "--mode", "direct", "--snapshot", "--json")
        run_id = json.loads(asked[1])["run_id"]
        (kept,) = json.loads(fleet("snapshots", "list", "--json")[1])["snapshots"]
        assert (kept["run_id"], kept["context"]["bytes"]) == (run_id, 9)
        assert "how many?" in fleet("snapshots", "list")[1]
        assert json.loads(fleet("snapshots", "show", run_id)[1]) == kept
        (tmp_path / "c.txt").unlink()
        code, out, _ = fleet("repeat", run_id, "--json")
        assert (code, json.loads(out)["answer"]) == (0, "42")
        assert model.prompts[-1] == model.prompts[-2]
    code, _, err = fleet("datasets", "create", "asked", "--snapshots")
    assert code == 2
    assert "give feedback" in err
    assert fleet("datasets", "create", "asked", "c.txt", "--snapshots")[0] == 2
    assert "forgotten" in fleet("snapshots", "delete", run_id)[1]
    assert fleet("repeat", run_id)[0] == 2
    assert "no snapshot is kept" in fleet("snapshots", "list")[2]
