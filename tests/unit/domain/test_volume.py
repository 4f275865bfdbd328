"""A volume path cannot leave its volume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.domain.errors import BadPath, FleetError
from fleet_rlm_jupyter.domain.volume import MAX_NAME, MAX_PATH, ROOTS, VolumePath

OUTSIDE = [
    # nothing, or no root
    "", " ", ".", "..", "x", "x/memory", "artifacts2/x", "artifact/x", "Memory/x", "MEMORY", "meta.json",
    "artifacts.bak/x", ".memory/x", "mem\u200bory/x", "memory\u0000/x", "ｍemory/x",
    # up and out
    "../x", "../memory/x", "memory/..", "memory/../x", "memory/../../etc/passwd", "memory/a/../../../x", "memory/a/..",
    "memory/./x", "memory/.", "./memory/x", "memory/../artifacts/x", "memory/a/b/../c", "artifacts/../meta/x",
    "memory/..\x00/x", "memory/.. /x", "memory/ ../x", "memory/..\t", "memory/\n../x",
    # absolute, of a home, of Windows
    "/", "//", "/memory/x", "//memory/x", "/etc/passwd", "~", "~/x", "~root/x", "~/memory", "C:\\x", "C:/x",
    "\\\\host\\share", "memory\\..\\x", "..\\x", "\\x", "memory\\x",
    # empty and padded parts
    "memory//x", "memory///x", " memory/x", "memory /x", "memory/ x", "memory/x ", "memory/\u00a0x",
    "memory/x\u2003/y", "memory/\u3000",
    # what no one can see or type
    "memory/x\x00", "memory/\x00", "memory/x\n", "memory/a\rb", "memory/\x1b[2J", "memory/\x7f", "memory/\u202egnp.exe",
    "memory/\u200b", "memory/\ufeffx", "memory/\ud800", "memory/\u2066x",
    # too long
    "memory/" + "x" * (MAX_NAME + 1), "memory/" + "é" * 128, "memory/" + "x/" * MAX_PATH, "m" * (MAX_PATH + 1),
    "memory" + ("/" + "é" * 120) * 5,
    # addresses
    "file:///memory/x", "http://memory/x", "memory:/x", "%2e%2e/x", "memory%2f..%2fx",
]  # fmt: skip

INSIDE = [
    ("memory", "memory", "memory"),
    ("memory/", "memory", "memory"),
    ("artifacts/a/b/c.txt", "artifacts/a/b/c.txt", "artifacts"),
    ("artifacts/a/b/", "artifacts/a/b", "artifacts"),
    ("buffers/..x", "buffers/..x", "buffers"),
    ("buffers/...", "buffers/...", "buffers"),
    ("buffers/.hidden", "buffers/.hidden", "buffers"),
    ("meta/a b.json", "meta/a b.json", "meta"),
    ("meta/~x", "meta/~x", "meta"),
    ("memory/日本語/ü.md", "memory/日本語/ü.md", "memory"),
    ("memory/C:", "memory/C:", "memory"),
    ("memory/%2e%2e", "memory/%2e%2e", "memory"),
    ("memory/" + "x" * MAX_NAME, "memory/" + "x" * MAX_NAME, "memory"),
]


def test_the_corpus_is_large():
    assert len(set(OUTSIDE)) >= 60


@pytest.mark.parametrize("text", OUTSIDE, ids=range(len(OUTSIDE)))
def test_a_path_that_leads_out_is_refused_with_the_next_step(text):
    with pytest.raises(BadPath) as caught:
        VolumePath(text)
    assert all(f"{root}/" in caught.value.hint for root in ROOTS)
    assert str(caught.value).encode("utf-8"), "the message can be written"


@pytest.mark.parametrize("text", OUTSIDE, ids=range(len(OUTSIDE)))
def test_no_name_joined_to_a_path_leads_out(text):
    base = VolumePath("artifacts/a")
    try:
        joined = base.joined(text)
    except BadPath:
        return
    assert str(joined).startswith("artifacts/a/")


@pytest.mark.parametrize(("text", "shown", "root"), INSIDE, ids=range(len(INSIDE)))
def test_a_path_under_a_root_is_taken(text, shown, root):
    path = VolumePath(text)
    assert (str(path), path.root, path.name) == (shown, root, shown.rsplit("/", 1)[-1])
    assert VolumePath(shown) == path
    assert len({path, VolumePath(shown)}) == 1
    assert path != shown


NAMES = st.text(min_size=1, max_size=12) | st.sampled_from(["..", ".", "", "~", "/", "\\", "x" * 300, "é" * 127, " "])
PATHS = st.one_of(
    st.text(),
    st.lists(NAMES, max_size=6).map("/".join),
    st.tuples(st.sampled_from(ROOTS), st.lists(NAMES, max_size=12)).map(lambda pair: "/".join((pair[0], *pair[1]))),
    st.lists(st.just("é" * 127), min_size=1, max_size=20).map(lambda names: "/".join(["memory", *names])),
)


@pytest.fixture(scope="module")
def volume(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volume")
    for root in ROOTS:
        (folder / root).mkdir()
    return folder


@given(text=PATHS)
def test_every_path_that_is_taken_is_a_place_under_its_root(volume, text):
    try:
        path = VolumePath(text)
    except FleetError:
        return
    place = volume / str(path)
    assert os.path.commonpath([volume / path.root, os.path.realpath(place)]) == str(volume / path.root)
    assert path.root in ROOTS
    place.mkdir(parents=True, exist_ok=True)
    assert place.is_dir(), "a path that is taken can be written"
