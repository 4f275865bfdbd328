"""The functions of every cell, on folders of this machine; `test_guest.py` has them in a REPL."""

from __future__ import annotations

import inspect
import os
import re
import select

import pytest

from fleet_rlm_jupyter.domain.volume import ROOTS
from fleet_rlm_jupyter.engine.recursion import TOLD_OF_TOOLS
from fleet_rlm_jupyter.sandbox import guest_tools, guest_volume
from fleet_rlm_jupyter.sandbox.guest_tools import TOOLS, find_files, grep, list_files, peek, read_file, run
from fleet_rlm_jupyter.sandbox.guest_volume import (
    add_buffer,
    clear_buffer,
    get_buffer,
    load_from_volume,
    save_to_volume,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The working folder of a sandbox without a volume."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guest_tools, "HOME", str(tmp_path))
    monkeypatch.setattr(guest_volume, "HOME", str(tmp_path))
    for root in ROOTS:
        (tmp_path / root).mkdir()
    return tmp_path


@pytest.fixture
def volume(home):
    """The same with a volume: the roots are links to those on it."""
    for root in ROOTS:
        (home / root).rmdir()
        (home / "volume" / root).mkdir(parents=True)
        (home / root).symlink_to(home / "volume" / root)
    return home / "volume"


# --- commands -------------------------------------------------------------------------------------------------------


def test_a_command_has_its_output_and_exit_code():
    assert run("echo out; echo err >&2; exit 3") == (3, "out\n", "err\n")
    assert run("cat").stdout == ""  # its input is empty


def test_long_output_keeps_its_head_and_its_tail():
    done = run("head -c 200000 /dev/zero | tr '\\0' a; echo z")
    assert done.stdout.startswith("aaa")
    assert done.stdout.endswith("az\n")
    assert "\n… 180,002 bytes left out …\n" in done.stdout
    assert len(done.stdout) < 20_100


def test_a_command_that_takes_too_long_is_stopped_with_all_it_started(home):
    os.mkfifo(home / "alive")
    ear = os.open(home / "alive", os.O_RDONLY | os.O_NONBLOCK)
    done = run("echo begun; sleep 60 3>alive & wait", seconds=1)
    assert (done.exit_code, done.stdout) == (124, "begun\n")
    assert done.stderr == "\nstopped after 1 seconds: pass more seconds, or do less at once"
    assert select.select([ear], [], [], 20)[0]  # nobody has its other end any more
    assert os.read(ear, 1) == b""
    os.close(ear)


def test_what_a_command_leaves_running_is_not_waited_for():
    done = run("sleep 30 & echo $!", seconds=20)
    assert done.exit_code == 0
    os.kill(int(done.stdout), 9)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_by_lines(home):
    (home / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    assert read_file("a.txt", 3, 4) == "line 3\nline 4\n"
    assert read_file("a.txt", 10) == "line 10\n"
    assert read_file("a.txt", 11) == ""


def test_a_long_file_says_where_it_was_cut_and_how_to_go_on(home):
    (home / "a.txt").write_text("x" * 999 + "\n" + ("y" * 999 + "\n") * 200)
    text = read_file("a.txt")
    assert len(text) < 100_200
    assert text.endswith("… cut in line 101: go on with read_file('a.txt', 101), or with peek")


def test_folders_are_listed_and_files_found_below_them(home):
    (home / "deep" / "er").mkdir(parents=True)
    (home / ".git").mkdir()
    for path in ("b.csv", "deep/a.csv", "deep/er/c.txt", ".git/d.csv"):
        (home / path).write_text("")
    assert list_files() == ["artifacts/", "b.csv", "buffers/", "deep/", "memory/", "meta/"]
    assert list_files("deep") == ["deep/a.csv", "deep/er/"]
    assert find_files("*.csv") == ["b.csv", "deep/a.csv"]
    assert find_files("er/*", "deep") == ["deep/er/c.txt"]


def test_files_of_a_volume_are_found_once_by_their_roots(volume):
    save_to_volume("memory/a.csv", "x")
    assert find_files("*.csv") == ["memory/a.csv"]


def test_many_files_are_bounded_and_said_to_be(home, monkeypatch, capsys):
    monkeypatch.setattr(guest_tools, "MOST_FILES", 3)
    for n in range(5):
        (home / "memory" / f"{n}.txt").write_text("")
    assert len(find_files("*.txt")) == len(list_files("memory")) == 3
    assert capsys.readouterr().out == (
        "only the first 3 files: name a folder, or a pattern that fits fewer\n"
        "only 3 of 5 names: find_files(pattern, path) finds others\n"
    )


# --- searching ------------------------------------------------------------------------------------------------------


def test_peek_shows_a_part_of_a_text_or_a_file(home):
    (home / "a.txt").write_text("0123456789")
    assert peek("abcdef", 2, 3) == "cde"
    assert peek("a.txt", 2, 3) == peek(home / "a.txt", 2, 3) == "234"
    assert peek("a.txt", -3) == "789"
    assert len(peek("x" * 200_000, 0, 200_000)) == 100_000


def test_grep_tells_lines_of_texts_files_folders_and_dicts(home):
    text = "one\ntwo foo\nthree\nfoo four foo\n"
    assert grep("(foo)+", text) == [("text", 2, "two foo"), ("text", 4, "foo four foo")]
    assert grep("^foo", text) == [("text", 4, "foo four foo")]
    assert grep("three", text, 1) == [("text", 3, "two foo\nthree\nfoo four foo")]
    assert grep("foo", {"a": "no", "b": "x\nfoo"}) == [("b", 2, "foo")]
    (home / "memory" / "a.txt").write_text(text)
    (home / "memory" / "b.bin").write_bytes(b"\0foo")
    assert grep("two", "memory/a.txt") == grep("two", "memory") == [("memory/a.txt", 2, "two foo")]
    assert grep("two", home / "memory" / "a.txt") == [(str(home / "memory" / "a.txt"), 2, "two foo")]


def test_grep_is_bounded_in_matches_and_in_each_of_them(capsys):
    found = grep("foo", "foo\n" * 500)
    assert [match.line for match in found] == list(range(1, 101))
    assert "only the first 100 matches: use a narrower pattern" in capsys.readouterr().out
    one_line = grep("foo", "x" * 5000 + "foo" + "y" * 5000 + "foo")
    assert [(match.line, len(match.text)) for match in one_line] == [(1, 603), (1, 303)]
    assert len(grep("(?s)a.*", "a" * 10_000)[0].text) == 300


def test_grep_without_a_match_says_that_a_name_was_no_file(capsys):
    assert grep("foo", "missing.txt") == []
    assert capsys.readouterr().out == "'missing.txt' is no file that is there, and was searched as a text\n"


# --- buffers and the volume -----------------------------------------------------------------------------------------


def test_a_buffer_keeps_texts_in_order_until_it_is_cleared(volume):
    assert add_buffer("notes", "one") == "buffers/notes/000001.txt: 3 bytes are on the volume"
    add_buffer("notes", "zwö\ud800")
    assert get_buffer("notes") == ["one", "zwö\ud800"]
    assert (volume / "buffers/notes/000001.txt").read_text() == "one"
    clear_buffer("notes")
    assert get_buffer("notes") == []
    clear_buffer("notes")


def test_a_number_that_somebody_took_is_not_written_again(home):
    (home / "buffers" / "n").mkdir()
    (home / "buffers" / "n" / "000002.txt").write_text("theirs")
    add_buffer("n", "ours")
    assert get_buffer("n") == ["theirs", "ours"]


def test_without_a_volume_it_is_said_that_files_end_with_the_sandbox():
    said = "x: 1 bytes are in this sandbox and end with it, for it has no volume"
    assert save_to_volume("memory/x", "a") == f"memory/{said}"


def test_files_are_written_once_and_whole_wherever_the_cell_is(volume, home, monkeypatch):
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    save_to_volume("artifacts/deep/a.bin", b"\xff\0")
    assert load_from_volume("artifacts/deep/a.bin", as_bytes=True) == b"\xff\0"
    with pytest.raises(FileExistsError, match="choose another name, or pass replace=True"):
        save_to_volume("artifacts/deep/a.bin", "text")
    save_to_volume("artifacts/deep/a.bin", "text", replace=True)
    assert load_from_volume("artifacts/deep/a.bin") == "text"
    assert (volume / "artifacts" / "deep" / "a.bin").read_text() == "text"


def test_half_a_file_is_not_left(home, monkeypatch):
    monkeypatch.setattr(guest_volume, "open", lambda *_: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError):
        save_to_volume("memory/x", "a")
    assert os.listdir(home / "memory") == []


def test_nothing_is_bought_with_rename_append_or_locks():
    source = inspect.getsource(guest_volume)
    assert not re.search(r"rename\(|os\.replace|flock|O_APPEND|\"ab?\"", source)


@pytest.mark.parametrize(
    "path",
    ["", "memory", "memory/", "/memory/x", "memory/../x", "other/x", "memory//x", "./memory/x", "memory/a\0", None, 3],
)
def test_no_path_leads_out_of_the_roots(path):
    for act in (lambda: save_to_volume(path, "x"), lambda: load_from_volume(path)):
        with pytest.raises(ValueError, match="is no file below memory, artifacts, buffers, meta: use a path like"):
            act()


def test_no_link_leads_out_of_the_roots(home):
    (home / "secret").write_text("s")
    (home / "memory" / "file").symlink_to(home / "secret")
    (home / "memory" / "folder").symlink_to(home)
    for path in ("memory/file", "memory/folder/secret"):
        with pytest.raises(OSError, match="choose another path"):
            load_from_volume(path)
        with pytest.raises(OSError, match="choose another"):
            save_to_volume(path, "x", replace=True)
    assert (home / "secret").read_text() == "s"


# --- errors, and what is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (lambda: read_file("none"), FileNotFoundError),
        (lambda: read_file("memory"), IsADirectoryError),
        (lambda: list_files("none"), FileNotFoundError),
        (lambda: find_files("*", "none"), FileNotFoundError),
        (lambda: peek("memory"), IsADirectoryError),
        (lambda: peek(["a"]), TypeError),
        (lambda: grep("(", "text"), ValueError),
        (lambda: grep("a", 3), TypeError),
        (lambda: add_buffer("../x", "a"), ValueError),
        (lambda: add_buffer("x", {"a": 1}), TypeError),
        (lambda: get_buffer("a/b"), ValueError),
        (lambda: save_to_volume("memory/x", 3), TypeError),
        (lambda: load_from_volume("memory/none"), FileNotFoundError),
        (lambda: load_from_volume("buffers/folder"), IsADirectoryError),
        (lambda: load_from_volume("meta/latin"), ValueError),
    ],
)
def test_an_error_is_one_sentence_with_the_next_step(home, act, kind):
    (home / "buffers" / "folder").mkdir()
    (home / "meta" / "latin").write_bytes(b"\xe4")
    with pytest.raises(kind, match=r"^[^\n]+: [^\n]+$") as caught:
        act()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_model_is_told_of_each_function_by_its_parameters():
    for tool in TOOLS:
        told = re.search(rf"\b{tool.__name__}\(([^)]*)\)", TOLD_OF_TOOLS)
        assert told, tool.__name__
        names = [name.split("=")[0].strip() for name in told[1].split(",")]
        assert names == list(inspect.signature(tool).parameters)[: len(names)]


def test_roots_are_those_of_a_volume():
    assert guest_volume.ROOTS == ROOTS
