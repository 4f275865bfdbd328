"""The functions of every cell, on folders of this machine; `test_guest.py` has them in a REPL."""

from __future__ import annotations

import inspect
import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet_rlm_jupyter.domain.volume import ROOTS
from fleet_rlm_jupyter.engine.recursion import TOLD_OF_TOOLS
from fleet_rlm_jupyter.sandbox import guest_tools, guest_volume, guest_work, workspace_tool
from fleet_rlm_jupyter.sandbox.guest_tools import TOOLS, find_files, grep, list_files, outline, peek, read_file, run
from fleet_rlm_jupyter.sandbox.guest_volume import (
    add_buffer,
    clear_buffer,
    get_buffer,
    load_from_volume,
    save_to_volume,
)
from fleet_rlm_jupyter.sandbox.guest_work import places, read_process, start_process, stop_process, write_file


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The working folder of a sandbox without a volume."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guest_tools, "HOME", str(tmp_path))
    monkeypatch.setattr(guest_volume, "HOME", str(tmp_path))
    monkeypatch.setattr(guest_work, "HOME", str(tmp_path))
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


# --- processes in the background --------------------------------------------------------------------------------------


def ended(number):
    deadline = time.monotonic() + 20
    while read_process(number).is_running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return read_process(number)


def test_a_process_in_the_background_is_looked_at_until_it_ends(home):
    os.mkfifo(home / "go")
    number = start_process("echo begun; read word <go; echo got $word >&2; exit 3")
    other = start_process("echo other")
    assert ended(other) == (False, 0, "other\n")
    assert read_process(number)[:2] == (True, None)
    (home / "go").write_text("on\n")
    assert ended(number) == (False, 3, "begun\ngot on\n")
    assert read_process(number, 4).output == " on\n"


def test_a_process_is_stopped_with_all_that_it_started_also_one_that_does_not_listen(home, monkeypatch):
    monkeypatch.setattr(guest_work, "STOP_SECONDS", 0.5)
    os.mkfifo(home / "alive")
    ear = os.open(home / "alive", os.O_RDONLY | os.O_NONBLOCK)
    number = start_process("trap '' TERM; exec 3>alive; echo up; sleep 60 & while :; do sleep 0.05; done")
    while "up" not in read_process(number).output:
        time.sleep(0.01)
    assert stop_process(number)[:2] == (False, None)
    assert select.select([ear], [], [], 20)[0]  # nobody has its other end any more
    assert os.read(ear, 1) == b""
    os.close(ear)
    assert stop_process(number) == read_process(number)  # harmless twice


def test_a_process_that_another_repl_started_is_known_by_its_number(home):
    code = "import sys; sys.path.insert(0, sys.argv[1]); from fleet_rlm_jupyter.sandbox import guest_work as w; "
    code += "print(w.start_process('sleep 60'))"
    root = str(Path(guest_work.__file__).parents[2])
    number = int(subprocess.run([sys.executable, "-c", code, root], capture_output=True, check=True).stdout)
    assert read_process(number).is_running
    assert not stop_process(number).is_running
    assert start_process("true") == number + 1


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_of_the_working_folder_are_written_and_appended_to(home):
    assert write_file("deep/er/a.txt", "one\n") == "deep/er/a.txt: 4 bytes written"
    write_file("deep/er/a.txt", b"two\n", append=True)
    assert read_file("deep/er/a.txt") == "one\ntwo\n"
    write_file("deep/er/a.txt", "new")
    assert read_file("deep/er/a.txt") == "new"


@pytest.mark.parametrize("path", ["memory/x", "./buffers/a/b", "artifacts", "deep/../meta/x"])
def test_what_must_be_whole_is_not_written_to_in_pieces(volume, home, path):
    (home / "deep").mkdir()
    for where in (path, str(home / path)):
        with pytest.raises(ValueError, match="use save_to_volume or add_buffer"):
            write_file(where, "x", append=True)


def test_the_repository_that_was_last_asked_about_has_a_name(volume, home):
    assert places() == {"REPO_PATH": str(home), "MEMORY_ROOT": str(volume)}
    records = home / ".fleet" / "workspaces"
    records.mkdir(parents=True)
    for at, name in enumerate(("first", "second", "context"), 1):
        (home / "workspace" / name).mkdir(parents=True)
        (records / f"{name}.json").write_text('{"digest": "d"}')
        os.utime(records / f"{name}.json", (at, at))
    assert places()["REPO_PATH"] == str(home / "workspace" / "second")
    workspace_tool.answer(json.dumps({"do": "look", "base": str(home), "name": "first", "archive": ""}))
    assert places()["REPO_PATH"] == str(home / "workspace" / "first")


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


SOURCE = """class A:
    '''What it is.

    More.'''
    def f(self):
        pass

if True:
    async def g(): return lambda: 1
"""


def test_python_sources_are_outlined(home, capsys):
    rows = [("class", "A", 1, 6, "What it is."), ("def", "A.f", 5, 6, ""), ("def", "g", 9, 9, "")]
    assert [(one.kind, one.name, one.line, one.end, one.about) for one in outline(SOURCE)] == rows
    for path, text in (("src/a.py", SOURCE), ("src/deep/b.py", "def b(): pass"), ("src/c.txt", "def no(): pass")):
        write_file(path, text)
    write_file("src/bad.py", "def (")
    assert [(one.source, one.name) for one in outline("src")] == [
        ("src/a.py", "A"), ("src/a.py", "A.f"), ("src/a.py", "g"), ("src/deep/b.py", "b"),
    ]  # fmt: skip
    assert "src/bad.py is no Python that can be read, and was left out: " in capsys.readouterr().out
    assert len(outline("def f(): pass\n" * 1500)) == 1000
    assert "only the first 1,000 of 1,500" in capsys.readouterr().out


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
        (lambda: write_file("other/", "a"), IsADirectoryError),
        (lambda: write_file("x", 3), TypeError),
        (lambda: read_process(7), ValueError),
        (lambda: stop_process("../x"), ValueError),
        (lambda: outline(3), TypeError),
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
