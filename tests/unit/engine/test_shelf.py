"""Folders that several processes share: what is in use stays, the longest unused goes first."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from fleet_rlm_jupyter.engine.shelf import Shelf


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "shelf")


def fill(shelf, tmp_path, name, size, used_at):
    taken = shelf.take(name)
    with taken.alone():
        (taken.folder / "deep").mkdir(parents=True, exist_ok=True)
        (taken.folder / "deep" / "data").write_bytes(bytes(size))
    os.utime(tmp_path / "shelf" / f"{name}.use", (used_at, used_at))
    return taken


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "shelf").iterdir() if path.is_dir())


def test_the_longest_unused_goes_until_the_rest_fits(shelf, tmp_path):
    for name, used_at in (("b", 200), ("a", 300), ("c", 100)):
        fill(shelf, tmp_path, name, 1000, used_at)
    assert shelf.prune(3000) == 0
    assert shelf.prune(2500) == 1
    assert names(tmp_path) == ["a", "b"]
    assert shelf.prune(2500, before=250) == 1
    assert names(tmp_path) == ["a"]
    assert shelf.prune(0) == 1
    assert names(tmp_path) == []


def test_to_take_it_is_to_use_it(shelf, tmp_path):
    fill(shelf, tmp_path, "a", 1000, 100)
    fill(shelf, tmp_path, "b", 1000, 200)
    shelf.take("a")
    shelf.prune(1000)
    assert names(tmp_path) == ["a"]


def test_what_is_in_use_stays_as_long_as_it_is(shelf, tmp_path):
    first, second = fill(shelf, tmp_path, "a", 1000, 100), shelf.take("a")
    first.release()
    first.release()
    assert (shelf.prune(0), names(tmp_path)) == (0, ["a"])
    assert (second.folder / "deep" / "data").exists()
    del second
    assert (shelf.prune(0), names(tmp_path)) == (1, [])


HOLD = """
import sys
from pathlib import Path
from fleet_rlm_jupyter.engine.shelf import Shelf
taken = Shelf(Path(sys.argv[1])).take("a")
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["end", "kill"])
def test_another_process_uses_it_too_until_it_ends(shelf, tmp_path, how):
    fill(shelf, tmp_path, "a", 1000, 100)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "shelf")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "taken\n"
        assert (shelf.prune(0), names(tmp_path)) == (0, ["a"])
        if how == "kill":
            other.kill()
        other.stdin.close()
        other.wait(10)
    assert (shelf.prune(0), names(tmp_path)) == (1, [])


def test_one_changes_it_at_a_time(shelf):
    inside, most = [0], [0]

    def change():
        for _ in range(20):
            with shelf.take("a").alone():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                threading.Event().wait(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1]


def test_what_somebody_died_over_is_removed_and_what_was_there_before_is_known(shelf, tmp_path):
    (tmp_path / "shelf" / "a.gone-123" / "deep").mkdir(parents=True)
    (tmp_path / "shelf" / "old").mkdir()
    assert shelf.prune(1000) == 0
    assert names(tmp_path) == ["old"]
    assert shelf.prune(1000, before=2**40) == 1
    assert names(tmp_path) == []


def test_a_shelf_that_is_not_there_yet_is_empty(shelf):
    assert shelf.prune(0) == 0
