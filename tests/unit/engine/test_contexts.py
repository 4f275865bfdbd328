"""Files and folders as contexts, and everything that cannot be one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fleet_rlm_jupyter.domain.errors import BadPath
from fleet_rlm_jupyter.engine.contexts import Context, read_context
from fleet_rlm_jupyter.settings import ContextSettings

LIMITS = ContextSettings()


def test_one_file_is_its_text(tmp_path: Path):
    (tmp_path / "a.txt").write_text("grüß dich", "utf-8")
    context = read_context([tmp_path / "a.txt"], LIMITS)
    assert context.value == "grüß dich"
    assert str(context.manifest) == "1 file, 0.0 MB"


def test_a_folder_is_its_texts_by_relative_path(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("B")
    (tmp_path / "a.txt").write_text("A")
    assert read_context([tmp_path], LIMITS).value == {"a.txt": "A", "sub/b.txt": "B"}


def test_several_folders_keep_files_of_one_name_apart(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    assert read_context([tmp_path / "one", tmp_path / "two"], LIMITS).value == {"one/a.txt": "one", "two/a.txt": "two"}


def test_caches_installed_packages_and_histories_are_no_part_of_a_folder(tmp_path: Path):
    for name in ("__pycache__", "site-packages", ".git", "node_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("x")
    (tmp_path / "a.txt").write_text("A")
    assert read_context([tmp_path], LIMITS).value == {"a.txt": "A"}


def test_binary_files_in_a_folder_are_left_out_and_listed(tmp_path: Path):
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.bin").write_bytes(b"\x00\x01\x02")
    (tmp_path / "c.bin").write_bytes(bytes(range(128, 160)) * 10 + b"\x01\x02\x03" * 40)
    context = read_context([tmp_path], LIMITS)
    assert context.value == {"a.txt": "A"}
    assert set(context.manifest.left_out) == {"b.bin", "c.bin"}
    assert "left out 2" in str(context.manifest)


def test_a_single_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "b.bin").write_bytes(b"\x7fELF\x00\x00")
    with pytest.raises(BadPath, match="binary"):
        read_context([tmp_path / "b.bin"], LIMITS)


def test_old_encodings_are_read(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("Größe: 3 m".encode("latin-1"))
    assert read_context([tmp_path / "a.txt"], LIMITS).value == "Größe: 3 m"


def test_lines_end_as_python_reads_them(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert read_context([tmp_path / "a.txt"], LIMITS).value == "one\ntwo\nthree\n"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_unicode_files_are_read_with_and_without_their_mark(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("Größe\r\n3 m".encode(encoding))
    assert read_context([tmp_path / "a.txt"], LIMITS).value == "Größe\n3 m"


def test_notebooks_are_read_as_cells_and_said_to_be(tmp_path: Path):
    cell = {"cell_type": "code", "source": "1", "outputs": [{"output_type": "stream", "text": "one\n"}]}
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "cells": [cell]}))
    (tmp_path / "b.ipynb").write_text("no notebook")
    made = read_context([tmp_path], LIMITS)
    cells = "# %% [code] cell 1\n1\n\n# %% [output] cell 1\none\n"
    assert made.value == {"a.ipynb": cells, "b.ipynb": "no notebook"}
    assert "1 of them notebook: cells and text outputs" in str(made.manifest)
    assert read_context([tmp_path / "a.ipynb"], LIMITS).value == cells


def test_folders_of_one_name_hide_nothing_of_each_other(tmp_path: Path):
    for name in ("x/logs", "y/logs"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(name)
    made = read_context([tmp_path / "x/logs", tmp_path / "y/logs"], LIMITS)
    assert made.value == {"logs/a.txt": "x/logs", "logs/a.txt (2)": "y/logs"}


def test_a_value_that_is_there_already_is_counted(tmp_path: Path):
    assert str(Context.of({"a": "x" * 1_000_000, "b": "ü" * 500_000}).manifest) == "2 files, 2.0 MB"


def test_links_are_not_followed_out_of_a_folder(tmp_path: Path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("A")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert read_context([folder], LIMITS).value == {"a.txt": "A"}


def test_a_missing_path_is_refused(tmp_path: Path):
    with pytest.raises(BadPath, match="there is no file"):
        read_context([tmp_path / "nowhere"], LIMITS)


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(BadPath, match="there is no text"):
        read_context([tmp_path], LIMITS)


def test_a_folder_without_text_says_why_its_first_file_was_left_out(tmp_path: Path):
    (tmp_path / "b.bin").write_bytes(b"\0")
    with pytest.raises(BadPath, match=r"there is no text in .*: .*b\.bin is a binary file"):
        read_context([tmp_path], LIMITS)


def test_an_unreadable_file_is_refused(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything; tests/integration covers this as another user")
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(BadPath, match="cannot be read"):
        read_context([tmp_path / "a.txt"], LIMITS)


def test_a_context_larger_than_the_setting_is_refused_before_it_is_read(tmp_path: Path):
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(2_000_001)
    with pytest.raises(BadPath, match="larger than 2 MB"):
        read_context([tmp_path / "big.txt"], ContextSettings(max_mb=2))


def test_what_has_no_size_before_it_is_read_is_bounded_too():
    with pytest.raises(BadPath, match=r"binary|larger than 2 MB"):
        read_context(["/dev/zero"], ContextSettings(max_mb=2))


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/dev/null/x"])
def test_an_impossible_path_is_refused(path: str):
    with pytest.raises(BadPath):
        read_context([path], LIMITS)


def test_more_files_than_the_setting_are_refused(tmp_path: Path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("x")
    with pytest.raises(BadPath, match="more than 3 files"):
        read_context([tmp_path], ContextSettings(max_files=3))
