"""What may be staged in a sandbox: roots, links, limits, and what is left out with its reason."""

from __future__ import annotations

import hashlib
import os

import pytest
from pydantic import ValidationError

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.domain.staging import StagedFile, StagingManifest
from fleet_rlm_jupyter.engine.staging import refuse_too_much, stage
from fleet_rlm_jupyter.settings import Settings


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "data" / "deep").mkdir(parents=True)
    (made / "data" / "a.txt").write_text("one")
    (made / "data" / "deep" / "b.bin").write_bytes(b"\0\1\2")
    (tmp_path / "outside.txt").write_text("secret")
    return made


def settings_for(root, **context) -> Settings:
    return Settings.model_validate({"workspace": {"roots": [str(root)]}, "context": context})


def test_files_and_folders_get_a_numbered_place_a_digest_and_what_they_are(root):
    (root / "my report.csv").write_text("x,y")
    staging = stage([root / "data", root / "my report.csv"], settings_for(root))
    assert [(file.path, file.source, file.bytes, file.is_text) for file in staging.manifest.files] == [
        ("01-data/a.txt", "data/a.txt", 3, True),
        ("01-data/deep/b.bin", "data/deep/b.bin", 3, False),
        ("02-my-report.csv/my report.csv", "my report.csv", 3, True),
    ]
    for file in staging.manifest.files:
        assert hashlib.sha256(staging.places[file.sha256].read_bytes()).hexdigest() == file.sha256
    assert str(staging.manifest) == "3 files, 0.0 MB"
    assert str(root) not in staging.manifest.model_dump_json()


def test_the_working_folder_is_the_root_where_none_is_set(root, monkeypatch):
    monkeypatch.chdir(root)
    assert stage(["data"], Settings()).manifest.folders == ["01-data"]
    with pytest.raises(BadPath, match="none of the folders"):
        stage(["../outside.txt"], Settings())


@pytest.mark.parametrize("given", ["../outside.txt", "link.txt", "link", "data/../../outside.txt"])
def test_what_leads_out_of_the_roots_is_refused(root, given):
    (root / "link.txt").symlink_to(root.parent / "outside.txt")
    (root / "link").symlink_to(root.parent)
    with pytest.raises(BadPath, match="none of the folders"):
        stage([root / given], settings_for(root))


def test_in_a_folder_links_out_of_the_roots_are_left_out_and_those_within_are_files(root):
    (root / "data" / "out.txt").symlink_to(root.parent / "outside.txt")
    (root / "data" / "up").symlink_to(root.parent)
    (root / "data" / "round").symlink_to(root / "data")
    (root / "data" / "nowhere").symlink_to(root / "missing")
    (root / "other.txt").write_text("other")
    (root / "data" / "in.txt").symlink_to(root / "other.txt")
    staging = stage([root / "data"], settings_for(root))
    assert "01-data/in.txt" in [file.path for file in staging.manifest.files]
    out = "it is a link out of the folders that files may be staged from"
    assert staging.manifest.left_out == {
        "data/out.txt": out,
        "data/up": out,
        "data/round": "it is a link to a folder",
        "data/nowhere": "it is a link to nothing",
    }
    assert "secret" not in "".join(place.read_text(errors="replace") for place in staging.places.values())


def test_what_is_left_out_of_a_folder_is_listed_with_its_reason(root):
    (root / "data" / ".git").mkdir()
    (root / "data" / ".git" / "config").write_text("x")
    (root / "data" / ".env").write_text("KEY=1")
    (root / "data" / "line\nfeed").write_text("x")
    os.mkfifo(root / "data" / "pipe")
    staging = stage([root / "data"], settings_for(root))
    assert [file.path for file in staging.manifest.files] == ["01-data/a.txt", "01-data/deep/b.bin"]
    assert staging.manifest.left_out == {
        "data/.git": "such folders hold caches, packages or histories",
        "data/.env": "it may hold keys; name it alone if it is to be staged",
        "data/line\nfeed": "it has a name that cannot be staged",
        "data/pipe": "it is no regular file",
    }
    assert stage([root / "data" / ".env"], settings_for(root)).manifest.folders == ["01-env"]


@pytest.mark.parametrize(
    ("limits", "says"), [({"max_files": 1}, "more than 1 files"), ({"max_mb": 1}, r"more than 1 MB \(at data/large")]
)
def test_more_than_the_settings_allow_is_refused(root, limits, says):
    (root / "data" / "large").write_bytes(bytes(1_000_001))
    with pytest.raises(BadPath, match=says):
        stage([root / "data"], settings_for(root, **limits))


@pytest.mark.parametrize(
    ("given", "says"),
    [("gone", "there is no file or folder"), ("empty", "no file to stage"), ("pipe", "no regular file")],
)
def test_nothing_to_stage_is_an_error(root, given, says):
    (root / "empty").mkdir()
    os.mkfifo(root / "pipe")
    with pytest.raises(BadPath, match=says):
        stage([root / given], settings_for(root))


def test_a_url_is_no_file_to_stage(root):
    with pytest.raises(BadPath, match="--context"):
        stage(["https://example.org/x"], settings_for(root))


@pytest.mark.parametrize(
    "path", ["a.txt", "01-a", "01-a/", "01-a/../b", "01-a//b", "/01-a/b", "../01-a/b", "01-a/b\n", "1-a/" + "x" * 256]
)
def test_a_manifest_from_outside_names_no_other_place(path):
    with pytest.raises(ValidationError):
        StagedFile(path=path, source="x", bytes=0, sha256="0" * 64, is_text=True)


def test_a_manifest_from_outside_is_held_to_the_limits(root):
    file = StagedFile(path="01-a/b", source="b", bytes=2_000_000, sha256="0" * 64, is_text=True)
    limits = settings_for(root, max_mb=3, max_files=1).context
    refuse_too_much(StagingManifest(files=(file,)), limits)
    for files in ((), (file, file)):
        with pytest.raises(BadRequest, match="files are staged"):
            refuse_too_much(StagingManifest(files=files), limits)
    with pytest.raises(BadRequest, match="MB are staged"):
        refuse_too_much(StagingManifest(files=(file, file)), settings_for(root, max_mb=3).context)
