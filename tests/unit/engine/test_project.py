"""A copy of the project for a child: which files, how much of them, and what never leaves."""

from __future__ import annotations

import os

import pytest

from fleet_rlm_jupyter.domain.errors import ToolFailed
from fleet_rlm_jupyter.engine import project
from fleet_rlm_jupyter.engine.project import project_copy, score_of, words_of
from fleet_rlm_jupyter.settings import Settings

PROMPT = "Where is the retry policy decided?"


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "src").mkdir(parents=True)
    return made


def settings_for(*roots, allowed=True) -> Settings:
    return Settings.model_validate(
        {"workspace": {"roots": [str(one) for one in roots]}, "delegation": {"project": allowed}}
    )


def copy(root, prompt=PROMPT) -> str:
    return project_copy(prompt, settings_for(root)).text


def copied(text: str) -> list[str]:
    tag = text.partition("a line that has [")[2].partition("]")[0]
    return [line.split()[2] for line in text.splitlines() if line.startswith(f"=== [{tag}] ")]


def test_without_the_setting_there_is_no_copy(root):
    (root / "a.py").write_text("retry")
    with pytest.raises(ToolFailed, match=r"delegation\.project") as caught:
        project_copy(PROMPT, settings_for(root, allowed=False))
    assert caught.value.hint == "go on without it"


def test_files_that_fit_the_prompt_come_best_first_and_the_others_only_by_their_path(root):
    (root / "src" / "retry.py").write_text("policy = 3")
    (root / "src" / "net.py").write_text("retry retry retry")
    (root / "other.py").write_text("nothing of it")
    text = copy(root)
    assert copied(text) == ["src/retry.py", "src/net.py"]
    assert "A copy of 2 of 3 text files" in text
    assert "other.py  13" in text
    assert "Left out:\n- nothing\n\nPaths" in text
    assert "nothing of it" not in text


def test_the_words_are_those_of_the_prompt_without_the_commonest():
    assert words_of("Where is the Retry policy of the retry loop?") == ["retry", "policy", "loop"]
    assert len(words_of(" ".join(f"word{number}" for number in range(80)))) == 50


def test_a_word_in_the_path_counts_five_and_one_in_the_text_each_time_up_to_five():
    assert score_of("src/retry.py", "", ["retry"]) == 5
    assert score_of("a.py", "Retry " * 3, ["retry"]) == 3
    assert score_of("a.py", "retry " * 9, ["retry", "policy"]) == 5


def test_the_same_files_and_prompt_are_the_same_copy_at_the_same_path(root):
    for name in "cab":
        (root / f"{name}.py").write_text("retry")
    first, second = (project_copy(PROMPT, settings_for(root)) for _ in range(2))
    assert first == second
    assert copied(first.text) == ["a.py", "b.py", "c.py"]
    assert first.path.startswith("buffers/given/project-")


def test_at_most_twenty_four_files_and_twelve_where_none_fits(root):
    for number in range(30):
        (root / f"f{number:02}.py").write_text("retry")
    assert copied(copy(root)) == [f"f{number:02}.py" for number in range(24)]
    assert copied(copy(root, "xylophone?")) == [f"f{number:02}.py" for number in range(12)]


def test_a_file_has_at_most_twelve_thousand_characters_and_all_of_them_a_hundred_and_eighty_thousand(root):
    for number in range(20):
        (root / f"f{number:02}.py").write_text("retry é" + "x" * 20_000)
    text = copy(root)
    assert len(copied(text)) == 15
    assert "f00.py, its first 12,000 characters ===" in text
    assert text.count("x" * 100) == text.count("x" * 11_993) * 119 == 15 * 119
    assert 180_000 <= len(text) < 183_000


def test_at_most_four_hundred_paths_are_listed_and_how_many_there_are_is_said(root):
    for number in range(450):
        (root / f"f{number:03}.py").write_text("x")
    (root / "src" / "retry.py").write_text("x")
    text = copy(root)
    assert "400 of 451, best first:\nsrc/retry.py  1\nf000.py  1\n" in text
    assert sum(line.endswith(".py  1") for line in text.splitlines()) == 400


def test_the_look_ends_after_so_many_files_and_says_so(root, monkeypatch):
    monkeypatch.setattr(project, "MOST_LOOKED_AT", 3)
    for number in range(5):
        (root / f"f{number}.py").write_text("x")
    text = copy(root)
    assert "3 of 3 text files" in text
    assert "not looked at, after 3: the rest" in text


SECRETS = [
    *(
        ".env",
        ".env.local",
        ".netrc",
        ".git/config",
        ".ssh/id_rsa",
        "id_ed25519",
        "server.pem",
        "tls.KEY",
        "vault.kdbx",
    ),
    *("credentials.json", "client_secret.json", "my-passwords.txt", "node_modules/a.js", ".venv/retry.py"),
]


def test_secrets_histories_and_packages_stay_here_and_are_counted(root):
    for name in SECRETS:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("retry hunter2")
    (root / "disguised.txt").write_text("retry hunter2\n-----BEGIN RSA PRIVATE KEY-----\n")
    (root / "retry.py").write_text("policy")
    text = copy(root)
    assert copied(text) == ["retry.py"]
    assert "hunter2" not in text
    assert not any(name in text for name in (*SECRETS, "disguised"))
    assert "- hidden files, and those that may hold keys: 11\n" in text
    assert "- hidden folders, and those of caches, packages or histories: 4\n" in text


def test_links_pipes_and_binaries_are_left_out(root, tmp_path):
    (tmp_path / "outside.txt").write_text("retry hunter2")
    (root / "retry.lnk").symlink_to(tmp_path / "outside.txt")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "retry.pipe")
    (root / "retry.bin").write_bytes(b"retry\0")
    (root / "retry.old").write_bytes(b"retry \xe9t\xe9")
    (root / "retry.py").write_text("policy")
    text = copy(root)
    assert copied(text) == ["retry.py"]
    assert "hunter2" not in text
    assert "- no UTF-8 text: 2\n" in text
    assert "- links, and what is no regular file: 1\n" in text
    assert "- links, and what cannot be read: 1\n" in text


def test_a_name_cannot_look_like_a_line_of_the_copy(root):
    (root / "a\n=== retry").write_text("x")
    assert "a?=== retry" in copy(root)


def test_several_roots_are_told_apart_and_an_empty_one_is_said(root, tmp_path):
    (root / "a.py").write_text("retry")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.py").write_text("retry policy")
    text = project_copy(PROMPT, settings_for(root, other)).text
    assert copied(text) == ["02-other/a.py", "01-root/a.py"]
    with pytest.raises(ToolFailed, match="no text in the project"):
        project_copy(PROMPT, settings_for(root / "src"))
