"""Which files of a cell are told, as the guest sees it and as far as the host believes it."""

from __future__ import annotations

import os

import pytest

from fleet_rlm_jupyter.sandbox import artifacts
from fleet_rlm_jupyter.sandbox.artifacts import Artifacts
from fleet_rlm_jupyter.sandbox.cell import artifact_paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "volume").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "volume")
    (tmp_path / "volume" / "old").write_text("old")
    return tmp_path / "volume"


def test_new_and_changed_files_are_told_once(folder):
    seen = Artifacts()
    assert seen.changed() == []
    (folder / "deep").mkdir()
    (folder / "deep" / "a").write_text("a")
    (folder / "old").write_text("another")
    (folder / "link").symlink_to("/etc/hostname")
    os.mkfifo(folder / "pipe")
    assert sorted(seen.changed()) == ["artifacts/deep/a", "artifacts/old"]
    assert seen.changed() == []
    (folder / "old").unlink()
    assert seen.changed() == []
    (folder / "old").write_text("again")
    assert seen.changed() == ["artifacts/old"]


def test_what_is_too_much_for_one_cell_is_told_with_the_next(folder, monkeypatch):
    monkeypatch.setattr(artifacts, "MOST_TOLD", 2)
    seen = Artifacts()
    for name in "abc":
        (folder / name).write_text(name)
    told = [*seen.changed(), *seen.changed()]
    assert sorted(told) == ["artifacts/a", "artifacts/b", "artifacts/c"]


def test_a_guest_that_claims_other_paths_is_not_believed():
    said = ["artifacts/a", "artifacts", "memory/x", "artifacts/../memory/x", "/etc/passwd", 7, "artifacts/\x00"]
    assert artifact_paths(said) == ["artifacts/a"]
    assert artifact_paths("artifacts/a") == artifact_paths(None) == []
    assert len(artifact_paths(["artifacts/a"] * 1000)) == artifacts.MOST_TOLD
