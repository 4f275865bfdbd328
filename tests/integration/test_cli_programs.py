"""`fleet programs` and `fleet datasets` as a user types them."""

from __future__ import annotations

import json
import re

import pytest
from scripted_model import ScriptedModel


@pytest.fixture
def fleet(fleet, monkeypatch, tmp_path):
    """With a store of the test's own."""
    monkeypatch.setenv("FLEET_STORE__URL", f"sqlite:///{tmp_path}/fleet.db")
    return fleet


def reply(prompt: str) -> str:
    """It adds up wrongly by one unless it is told to be careful, and has that idea when it is asked for better ones."""
    if "new_instruction" in prompt:
        return '{"new_instruction": "Add up carefully."}'
    total = sum(map(int, re.findall(r"(\d+) \+ (\d+)", prompt)[-1])) + (0 if "carefully" in prompt else 1)
    return f"[[ ## answer ## ]]\n{total}\n\n[[ ## completed ## ]]"


@pytest.fixture
def adder(fleet, monkeypatch, tmp_path):
    """A program that is wrong, rows that show it, and a model that knows better."""
    rows = [
        {"question": f"{number} + 3", "answer": number + 3, "split": ("train", "val", "test")[number % 3]}
        for number in range(12)
    ]
    (tmp_path / "sums.json").write_text(json.dumps(rows), encoding="utf-8")
    fleet("datasets", "create", "sums", "sums.json")
    fleet("programs", "save", "adder", "question -> answer: int")
    with ScriptedModel(reply) as model:
        for name, value in model.settings.items():
            monkeypatch.setenv(f"FLEET_{name.upper()}", str(value))
        yield model


def test_a_dataset_is_made_of_a_file_listed_shown_and_forgotten(fleet, tmp_path):
    rows = [{"question": f"{number}?", "answer": str(number)} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnonsense\n", encoding="utf-8")
    code, out, err = fleet("datasets", "create", "numbers", "rows.jsonl")
    assert code == 0
    assert out.startswith("numbers  20 rows (")
    assert out.endswith("question, answer\n")
    assert "left out: row 21: no JSON" in err
    found = json.loads(fleet("datasets", "list", "--json")[1])["datasets"]
    assert [(one["name"], one["rows"]) for one in found] == [("numbers", 20)]
    shown = [json.loads(line) for line in fleet("datasets", "show", "numbers", "--count", "3")[1].splitlines()]
    assert len(shown) == 3
    assert shown[0].keys() == {"split", "origin", "question", "answer"}
    assert fleet("datasets", "delete", "numbers")[0] == 0
    assert "there is no dataset; make one" in fleet("datasets", "list")[2]


def test_a_program_is_saved_shown_and_approved(fleet, tmp_path):
    assert fleet("programs", "save", "qa", "question -> answer")[1] == "qa@1  predict: question -> answer\n"
    assert fleet("programs", "show", "qa@1")[0] == 0
    state = json.loads(fleet("programs", "show", "qa@1")[1])["state"]
    state["signature"]["instructions"] = "Be brief."
    (tmp_path / "state.json").write_text(json.dumps({**state, "metadata": {}}), encoding="utf-8")
    saved = fleet("programs", "save", "qa", "question -> answer", "--state", "state.json")
    assert saved[1] == "qa@2  predict: question -> answer  not approved\n"
    assert [one["version"] for one in json.loads(fleet("programs", "list", "--json")[1])["programs"]] == [0, 1]
    assert fleet("programs", "approve", "qa", "2")[0] == 0
    assert fleet("programs", "list")[1].splitlines()[1:] == ["qa@2  predict: question -> answer"]
    assert [line[:4] for line in fleet("programs", "show", "qa")[1].splitlines()] == ["qa@2", "qa@1"]
    for arguments, why in (
        (["save", "qa", "nonsense"], "is no signature"),
        (["approve", "qa", "9"], "there is no program qa@9"),
        (["show", "nope"], "there is no program nope"),
    ):
        code, _, err = fleet("programs", *arguments)
        assert (code, why in err) == (2, True), err


def test_what_cannot_be_is_said_in_one_line(fleet, tmp_path):
    (tmp_path / "bad.json").write_text("[1, 2", encoding="utf-8")
    for arguments, why in (
        (["create", "x", "bad.json"], "it is no JSON array"),
        (["create", "x"], "give either PATH or --session"),
        (["create", "x", "--session", "s-0"], "there is no session s-0"),
        (["show", "x"], "there is no dataset x"),
        (["delete", "x"], "there is no dataset x"),
    ):
        code, _, err = fleet("datasets", *arguments)
        assert (code, why in err) == (2, True), err


def test_a_program_is_evaluated_and_optimized(fleet, adder):
    code, out, err = fleet("evaluate", "adder", "--dataset", "sums", "--metric", "number", "--tolerance", "1")
    assert (code, out.splitlines()[0]) == (0, "adder@1 scores 1.000 on val of sums (4 rows)")
    assert "adder@1 scores 1.000 on val" in err
    code, out, err = fleet("optimize", "adder", "--dataset", "sums", "--json", "--set", "budget.calls=60")
    found = json.loads(out)
    assert (code, found["status"], found["program"], found["scores"]["adder@2"]) == (
        0, "done", "adder@2", {"val": 1.0, "test": 1.0},
    )  # fmt: skip
    assert fleet("programs", "show", "adder")[1].splitlines()[0] == (
        "adder@2  predict: question -> answer: int  val 1.000  test 1.000  from @1  not approved"
    )
    assert fleet("evaluate", "adder", "--dataset", "sums", "--set", "budget.calls=1")[0] == 3
    for bad in ("nope", "exact=x", "exact=0"):
        assert fleet("evaluate", "adder", "--dataset", "sums", "--metric", bad)[0] == 2
    assert fleet("optimize", "adder", "--dataset", "nope")[0] == 2
    assert "offline recipes" in fleet("optimize", "adder", "--dataset", "sums", "--set", "model=offline/recipes")[2]


def test_what_was_tried_is_listed_shown_and_compared(fleet, adder):
    assert "nothing was tried that fits" in fleet("optimizations", "list")[2]
    evaluated = json.loads(fleet("evaluate", "adder", "--dataset", "sums", "--json")[1])["run_id"]
    optimized = json.loads(fleet("optimize", "adder", "--dataset", "sums", "--json")[1])["run_id"]

    listed = fleet("optimizations", "list", "--program", "adder", "--dataset", "sums")[1].splitlines()
    assert [line.split()[0] for line in listed] == [optimized, evaluated]
    assert listed[0].endswith("done        adder@1 on sums: adder@2 val 1.000 test 1.000")
    found = json.loads(fleet("optimizations", "list", "--json", "--limit", "1")[1])["optimizations"]
    assert [one["run_id"] for one in found] == [optimized]

    shown = fleet("optimizations", "show", optimized)[1].splitlines()
    assert re.fullmatch(r"adder@1 on sums  done, phase saving  \d+ LM calls", shown[0])
    assert "  adder@1  val 0.000  test 0.000" in shown
    assert shown[-2:] == ["* candidate 1  val 1.000  test 1.000  kept as adder@2", "    self: Add up carefully."]
    assert json.loads(fleet("optimizations", "show", optimized, "--json")[1])["best"] == "candidate 1"

    code, out, err = fleet(
        "optimizations", "rows", optimized, "--candidate", "candidate 1", "--split", "val", "--limit", "3"
    )
    assert (code, len(out.splitlines())) == (0, 3)
    assert re.fullmatch(r"\w{8}  candidate 1  val  1.000  (.+) \| \1", out.splitlines()[0])
    (cursor,) = re.findall(r"more with --cursor (\d+)", err)
    rest = json.loads(fleet("optimizations", "rows", optimized, "--cursor", cursor, "--json")[1])
    assert (rest["rows"][0]["candidate"], rest["cursor"]) == ("candidate 1", None)

    code, out, err = fleet("optimizations", "compare", "adder@1", optimized, "--limit", "1")
    first, second, total, row = out.splitlines()
    assert (first.split()[0], second, total) == (
        "adder@1", f"{optimized}  candidate 1 of {optimized}  1.000 (+1.000)", "4 rows of val",
    )  # fmt: skip
    assert "  0.000 (+0.000)  1.000 (+1.000)  " in row
    assert "more with --cursor 1" in err
    compared = json.loads(fleet("optimizations", "compare", "adder@1", "adder@2", "--split", "test", "--json")[1])
    assert [side["score"] for side in compared["sides"]] == [0, 1]

    assert fleet("optimizations", "save", optimized)[1].startswith("adder@2  predict")
    for arguments, why in (
        (["show", "r-0"], "no run r-0 tried a program"), (["compare", "adder"], "two to 5 can be compared"),
        (["save", evaluated, "--candidate", "x"], "has scored no x"),
    ):  # fmt: skip
        code, _, err = fleet("optimizations", *arguments)
        assert (code, why in err) == (2, True), err
