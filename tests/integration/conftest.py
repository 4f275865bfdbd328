"""What tests of several files here share."""

from __future__ import annotations

import sys

import pytest

from fleet_rlm_jupyter import cli


@pytest.fixture
def fleet(monkeypatch, capfd, tmp_path):
    """`fleet` in this process: (exit code, stdout, stderr) of a command, which shows no traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleet", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return run
