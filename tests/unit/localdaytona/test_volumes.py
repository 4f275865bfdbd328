"""Opening a folder in a volume follows no link that code in a sandbox may have left there."""

import os
from pathlib import Path

import pytest

from fleet_rlm_jupyter.localdaytona.faults import Faults
from fleet_rlm_jupyter.localdaytona.volumes import LocalVolumes, open_inside
from fleet_rlm_jupyter.localdaytona.wire import ApiError


def path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def test_a_subpath_is_made_and_opened(tmp_path: Path) -> None:
    assert path_of(open_inside(str(tmp_path), "", None)) == str(tmp_path)
    assert path_of(open_inside(str(tmp_path), "a/./b//c", None)) == str(tmp_path / "a/b/c")


@pytest.mark.parametrize("subpath", ["link", "link/x", "a/link", "a/link/y"])
def test_a_link_is_not_followed(tmp_path: Path, subpath: str) -> None:
    (tmp_path / "a").mkdir()
    for place in (tmp_path / "link", tmp_path / "a" / "link"):
        place.symlink_to("/etc")
    with pytest.raises(OSError):
        open_inside(str(tmp_path), subpath, None)


def test_no_way_leads_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"\.\."):
        open_inside(str(tmp_path), "a/../../b", None)


def test_no_descriptor_is_left_open_after_an_error(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "file").touch()
    for subpath in ("file", "a/../b", "file/x"):
        with pytest.raises(OSError):
            open_inside(str(tmp_path), subpath, None)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_volume_is_found_by_id_and_by_name_and_is_kept(tmp_path: Path) -> None:
    made = LocalVolumes(tmp_path / "v", None, Faults()).create("notes")
    again = LocalVolumes(tmp_path / "v", None, Faults())
    assert again.get("notes") == again.get(str(made["id"])) == made
    with pytest.raises(ApiError):
        again.create("notes")
    again.delete("notes")
    with pytest.raises(ApiError):
        again.get("notes")


@pytest.mark.parametrize("name", ["a/b", "x" * 101])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ApiError):
        LocalVolumes(tmp_path, None, Faults()).create(name)
