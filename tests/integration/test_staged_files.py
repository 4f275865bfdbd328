"""Files that a question stages: in the sandbox by path, with a manifest, brought up to date in place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.domain.events import RunStarted, SandboxChanged
from fleet_rlm_jupyter.domain.staging import FOLDER, StagedFile, Staging, StagingManifest
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_models
from fleet_rlm_jupyter.workbench import Question, Workbench

LOOK = """
import json, os
found = {}
for here, _, names in os.walk("workspace/context"):
    for name in names:
        path = os.path.join(here, name)
        if os.path.isfile(path):
            found[os.path.relpath(path, "workspace/context")] = open(path, "rb").read().decode("latin-1")
SUBMIT(answer=json.dumps(found))
"""


class Asking:
    """One Workbench, whose model writes the cell that `cell` is."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.model_validate(
            {
                "store": {"url": f"sqlite:///{folder}/data/fleet.db"},
                "sandbox": {"allow_unisolated": True},
                "workspace": {"roots": [str(folder)]},
            }
        )
        self.cell = LOOK
        self.engine = ScriptedEngine(lambda prompt: code(self.cell))
        self.bench = Workbench(self.settings, DaytonaSandboxes(self.settings), scripted_models(self.engine))

    def __call__(self, session: str, *paths: Path, cell: str = LOOK, staged: Staging | None = None):
        """(files in the sandbox's folder, what was said of them, all facts)."""
        self.cell = cell
        asked = Question("?", session_id=session, context_paths=paths, staged=staged)
        live = self.bench.ask(asked)
        ended = live.result(60)
        assert ended.status == "done", ended.error
        facts = [event.fact for event in live.trace.events]
        placed = next(fact.staged for fact in facts if isinstance(fact, SandboxChanged) and fact.staged)
        return json.loads(ended.answer), placed, facts


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    made = Asking(tmp_path_factory.mktemp("staged"))
    yield made
    made.bench.close()


@pytest.fixture
def session(ask):
    return ask.bench.sessions.create().session_id


@pytest.fixture
def data(ask, session):
    made = Path(ask.settings.workspace.roots[0], session, "data")
    (made / "deep").mkdir(parents=True)
    (made / "a.txt").write_text("one")
    (made / "deep" / "b.bin").write_bytes(b"\0\xff")
    (made / ".git").mkdir()
    return made


def test_code_opens_the_files_by_path_and_finds_them_in_the_manifest(ask, session, data):
    found, placed, facts = ask(session, data, data / "a.txt")
    manifest = json.loads(found.pop("manifest.json"))
    first = f"01-{data.name}"
    assert found == {f"{first}/a.txt": "one", f"{first}/deep/b.bin": "\0\xff", "02-a.txt/a.txt": "one"}
    assert [(file["path"], file["bytes"], file["is_text"]) for file in manifest["files"]] == [
        (f"{first}/a.txt", 3, True),
        (f"{first}/deep/b.bin", 2, False),
        ("02-a.txt/a.txt", 3, True),
    ]
    assert manifest["left_out"] == {f"{session}/data/.git": "such folders hold caches, packages or histories"}
    assert (placed.path, placed.files, placed.bytes, placed.left_out) == (FOLDER, 3, 8, 1)
    assert (placed.state, placed.sent) == ("created", 2)  # equal content goes once
    started = next(fact for fact in facts if isinstance(fact, RunStarted))
    assert "staged 3 files, 0.0 MB, 1 left out in workspace/context" in started.note
    assert f"below {first}, 02-a.txt" in ask.engine.prompts[-1]
    assert "workspace/context/manifest.json" in ask.engine.prompts[-1]


def test_what_is_there_is_not_sent_again_and_what_is_gone_goes(ask, session, data):
    ask(session, data)
    _, again, _ = ask(session, data)
    assert (again.state, again.sent, again.removed) == ("reused", 0, 0)
    (data / "a.txt").write_text("another")
    (data / "deep" / "b.bin").unlink()
    (data / "c.txt").write_text("three")
    found, changed, _ = ask(session, data)
    assert (changed.state, changed.sent, changed.removed) == ("reconciled", 2, 1)
    found.pop("manifest.json")
    assert found == {f"01-{data.name}/a.txt": "another", f"01-{data.name}/c.txt": "three"}
    (data.parent / "first.txt").write_text("first")
    found, moved, _ = ask(session, data.parent / "first.txt", data)
    assert (moved.state, moved.sent, moved.removed) == ("reconciled", 1, 2)
    assert found[f"02-{data.name}/a.txt"] == "another"
    assert f"01-{data.name}/a.txt" not in found


SPOILED = """
import os
os.chdir("workspace/context")
(folder,) = [name for name in os.listdir(".") if name.startswith("01-")]
open(folder + "/mine.txt", "w").write("kept")
open(folder + "/deep/b.bin", "ab").write(b"more")
os.makedirs("../../elsewhere", exist_ok=True); open("../../elsewhere/a.txt", "w").write("mine")
os.unlink(folder + "/a.txt"); os.symlink("../../../elsewhere/a.txt", folder + "/a.txt")
os.unlink("manifest.json")
SUBMIT(answer="{}")
"""


def test_what_code_changed_is_put_back_without_following_its_links_and_what_it_made_stays(ask, session, data):
    ask(session, data, cell=SPOILED)
    found, placed, _ = ask(session, data)
    assert (placed.state, placed.sent) == ("reconciled", 2)
    first = f"01-{data.name}"
    assert found.pop("manifest.json")
    assert found == {f"{first}/a.txt": "one", f"{first}/deep/b.bin": "\0\xff", f"{first}/mine.txt": "kept"}
    mine, _, _ = ask(session, data, cell="import json\nSUBMIT(answer=json.dumps(open('elsewhere/a.txt').read()))")
    assert mine == "mine"


def test_a_file_that_changes_while_it_is_sent_fails_the_run_and_not_silently(ask, session, data):
    path = data / "a.txt"
    file = StagedFile(path="01-a.txt/a.txt", source="a.txt", bytes=3, sha256="0" * 64, is_text=True)
    staged = Staging(StagingManifest(files=(file,)), {file.sha256: path})
    ended = ask.bench.ask(Question("?", session_id=session, staged=staged)).result(60)
    assert ended.status == "failed"
    assert "a.txt was changed while it was sent" in ended.error.text


def test_staged_files_need_a_model_and_a_sandbox(ask, data):
    with pytest.raises(BadRequest, match="no sandbox"):
        ask.bench.ask(Question("?", context_paths=[data], mode="direct"))
    with pytest.raises(BadPath, match="none of the folders"):
        ask.bench.ask(Question("?", context_paths=[os.sep]))
    offline = Workbench(ask.settings.model_copy(update={"model": "offline/recipes"}))
    try:
        with pytest.raises(BadRequest, match="no staged files"):
            offline.ask(Question("?", context_paths=[data]))
    finally:
        offline.close()
