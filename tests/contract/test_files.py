"""`Files`: one suite over a session's volume in a sandbox, while it works and when it does not, and over a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import daytona
import pytest
from contract.faulty_line import FaultyLine
from contract.localdaytona_server import KEY
from memory import Peak

from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest, SandboxUnavailable
from fleet_rlm_jupyter.domain.ports import Files, Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import DaytonaSettings, SandboxSettings, Settings
from fleet_rlm_jupyter.testing import UnisolatedSandboxes

pytest_plugins = ["contract.remote_fixture"]


@pytest.fixture(scope="module")
def local() -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def bare() -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(allow_unisolated=True, volume="none")))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["browsing", "beside a run", "without a volume", "folder"])
def home_of_files(request: pytest.FixtureRequest) -> Iterator[Files]:
    name = f"s-files-{request.param.replace(' ', '-')}"
    if request.param == "folder":
        plain = UnisolatedSandboxes()
        yield plain.files(name)
        plain.close()
        return
    home = request.getfixturevalue("bare" if request.param == "without a volume" else "local")
    if request.param == "browsing":
        yield home.files(name)
        return
    run = home.open(Role(name, "r-1", "rlm", 1, is_kept=True))
    run.start()
    yield home.files(name)
    run.shutdown()


@pytest.fixture
def files(home_of_files: Files) -> Iterator[Files]:
    yield home_of_files
    for entry in home_of_files.tree(depth=2).entries:
        if "/" in entry.path:
            home_of_files.delete(entry.path)


def paths(files: Files, *given: Any, **more: Any) -> list[str]:
    return [entry.path for entry in files.tree(*given, **more).entries]


def test_what_is_written_is_read_and_listed(files: Files) -> None:
    files.write("memory/a/b.txt", "héllo".encode())
    files.write("artifacts/bytes", bytes(range(256)))
    files.make_folder("buffers/empty")
    assert files.read("memory/a/b.txt") == "héllo".encode()
    assert files.read("artifacts/bytes") == bytes(range(256))
    assert {"memory/a", "memory/a/b.txt", "artifacts/bytes", "buffers/empty"} <= set(paths(files))
    entry = next(one for one in files.tree("memory").entries if one.path == "memory/a/b.txt")
    assert (entry.kind, entry.bytes) == ("file", 6)


def test_a_file_is_written_anew_as_a_whole(files: Files) -> None:
    files.write("memory/x", b"long long long")
    files.write("memory/x", b"short")
    assert files.read("memory/x") == b"short"


def test_a_large_file_comes_piece_by_piece_and_is_never_held(files: Files, tmp_path: Path) -> None:
    large, block, whole = tmp_path / "large", os.urandom(1_000_000), hashlib.sha256()
    with large.open("wb") as file:
        for number in range(80):
            piece = block[number:] + block[:number]
            whole.update(piece)
            file.write(piece)
    files.write("artifacts/large", large)
    peak, found, sizes = Peak(), hashlib.sha256(), []
    for piece in files.pieces("artifacts/large", 80_000_000):
        found.update(piece)
        sizes.append(len(piece))
    assert (sum(sizes), found.hexdigest()) == (80_000_000, whole.hexdigest())
    assert max(sizes) < 2_000_000
    with pytest.raises(BadPath, match="80,000,000"):
        files.pieces("artifacts/large", 79_999_999)
    first = files.pieces("artifacts/large", 80_000_000)
    assert block.startswith(next(iter(first))[:1000]), "and the rest is left where it is"
    assert peak.grown_mb < 30


def test_files_and_folders_are_moved_and_deleted(files: Files) -> None:
    files.write("memory/from/one", b"1")
    files.write("memory/from/deep/two", b"2")
    files.move("memory/from", "artifacts/to")
    assert files.read("artifacts/to/deep/two") == b"2"
    assert not [path for path in paths(files) if path.startswith("memory/from")]
    files.delete("artifacts/to")
    assert not [path for path in paths(files) if path.startswith("artifacts/to")]


def test_trees_are_bounded_and_say_so(files: Files) -> None:
    for number in range(5):
        files.write(f"memory/deep/{number}/x", b"")
    cut = files.tree("memory", most=3)
    assert (len(cut.entries), cut.is_cut) == (3, True)
    shallow = files.tree("memory", depth=1)
    assert [entry.path for entry in shallow.entries] == ["memory/deep"]
    assert shallow.is_cut
    assert not files.tree("memory").is_cut


REFUSED: list[tuple[Any, str]] = [
    (lambda files: files.read("memory/none"), "there is no"),
    (lambda files: files.read("memory/folder"), "is a folder"),
    (lambda files: files.read("memory/file/below"), "not in a folder"),
    (lambda files: files.read("memory/file", 3), "has 4 bytes"),
    (lambda files: files.write("memory/folder", b""), "is a folder"),
    (lambda files: files.move("memory/file", "memory/folder"), "is there already"),
    (lambda files: files.move("memory/folder", "memory/folder/inside"), "into itself"),
    (lambda files: files.delete("memory/none"), "there is no"),
    (lambda files: files.delete("memory"), "is a root"),
    (lambda files: files.move("memory", "artifacts/x"), "is a root"),
    (lambda files: files.tree("memory/none"), "there is no"),
]


def test_what_cannot_be_done_is_one_sentence_and_a_next_step(files: Files) -> None:
    files.write("memory/file", b"1234")
    files.make_folder("memory/folder")
    for act, said in REFUSED:
        with pytest.raises(BadPath, match=said) as caught:
            act(files)
        assert caught.value.hint
    assert files.read("memory/file") == b"1234"


ESCAPES = ["../x", "/etc/passwd", "memory/../../x", "memory/./x", "other/x", "~/x", "memory/\x00", "memory\\x", "", "."]


def test_no_path_leaves_the_roots(files: Files) -> None:
    for path in ESCAPES:
        for act in (
            lambda path=path: files.read(path),
            lambda path=path: files.write(path, b"x"),
            lambda path=path: files.make_folder(path),
            lambda path=path: files.delete(path),
            lambda path=path: files.move(path, "memory/y"),
            lambda path=path: files.move("memory/y", path),
        ):
            with pytest.raises(BadPath):
                act()


def test_links_are_shown_and_never_followed(local: DaytonaSandboxes) -> None:
    """Generated code may lay them anywhere, before and while somebody looks."""
    run = local.open(Role("s-links", "r-1", "rlm", 1, is_kept=True))
    run.execute(
        "import os\nos.symlink('/etc', 'memory/folder')\nos.symlink('/etc/passwd', 'memory/file')\n"
        "os.symlink(os.path.expanduser('~'), 'artifacts/home')\nopen('outside', 'w').write('x')"
    )
    for files in (local.files("s-links"),):
        kinds = {entry.path: entry.kind for entry in files.tree().entries}
        assert kinds["memory/folder"] == kinds["memory/file"] == kinds["artifacts/home"] == "link"
        assert not [path for path in kinds if path.startswith("memory/folder/")]
        for act in (
            lambda files=files: files.read("memory/file"),
            lambda files=files: files.read("memory/folder/passwd"),
            lambda files=files: files.write("memory/file", b"x"),
            lambda files=files: files.write("artifacts/home/new", b"x"),
            lambda files=files: files.move("artifacts/home/outside", "memory/stolen"),
            lambda files=files: files.make_folder("artifacts/home/made"),
            lambda files=files: files.tree("memory/folder"),
        ):
            with pytest.raises(BadPath):
                act()
        files.delete("memory/file")
    assert (
        run.execute("os.path.exists('/etc/passwd'), os.path.exists('new'), os.path.exists('outside')")
        == "(True, False, True)"
    )
    run.shutdown()


def test_a_session_reaches_its_own_files_only(local: DaytonaSandboxes) -> None:
    local.files("s-mine").write("memory/secret", b"x")
    assert "memory/secret" not in paths(local.files("s-theirs"))
    for bad in ("../s-mine", "s-mine/..", "", "a/b", "x" * 200):
        with pytest.raises(BadRequest):
            local.files(bad)


@pytest.fixture
def remote_files(line: FaultyLine) -> Iterator[DaytonaSandboxes]:
    cloud = DaytonaSettings(api_key=KEY, api_url=line.url)
    made = DaytonaSandboxes(Settings(daytona=cloud, sandbox=SandboxSettings(volume="reading")))
    yield made
    made.close()


def test_reading_makes_nothing(remote_files: DaytonaSandboxes, line: FaultyLine) -> None:
    files = remote_files.files("s-nothing")
    assert paths(files) == []
    with pytest.raises(BadPath):
        files.read("memory/x")
    assert line.count("POST /api/(volumes|sandbox)$") == 0
    remote_files.files("s-other").write("memory/x", b"1")
    assert paths(files) == []
    assert paths(remote_files.files("s-other")) == ["memory", "memory/x"]


def test_one_small_sandbox_serves_every_request(remote_files: DaytonaSandboxes, line: FaultyLine) -> None:
    for number in range(3):
        files = remote_files.files(f"s-{number}")
        files.write("memory/x", b"1")
        files.tree()
        files.read("memory/x")
    assert line.count("POST /api/sandbox$") == 1


def test_a_browsing_sandbox_that_is_gone_is_made_anew(remote_files: DaytonaSandboxes, service: Any) -> None:
    files = remote_files.files("s-again")
    files.write("memory/x", b"1")
    for one in daytona.Daytona(service.config()).list():
        one.delete()
    assert files.read("memory/x") == b"1"


def test_a_download_that_breaks_off_is_an_error_and_not_a_shorter_file(
    remote_files: DaytonaSandboxes, line: FaultyLine
) -> None:
    files = remote_files.files("s-broken")
    files.write("memory/large", bytes(60_000_000))
    pieces = iter(files.pieces("memory/large", 60_000_000))
    read = len(next(pieces))
    line.cut(only_sockets=False)
    with pytest.raises(SandboxUnavailable):
        read += sum(map(len, pieces))
    assert read < 60_000_000
    assert len(files.read("memory/large", 60_000_000)) == 60_000_000


def test_what_cells_keep_by_their_functions_is_on_the_volume(local: DaytonaSandboxes) -> None:
    run = local.open(Role("s-functions", "r-1", "rlm", 1, is_kept=True))
    run.start()
    assert "bytes are on the volume" in str(run.execute("add_buffer('notes', 'kept')"))
    run.execute("save_to_volume('artifacts/deep/a.bin', bytes(3))")
    assert run.execute("find_files('*.bin') + find_files('*.txt')") == (
        "['artifacts/deep/a.bin', 'buffers/notes/000001.txt']"
    )
    files = local.files("s-functions")
    assert files.read("buffers/notes/000001.txt") == b"kept"
    assert files.read("artifacts/deep/a.bin") == bytes(3)
    run.shutdown()
