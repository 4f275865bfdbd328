"""Windows gets one clear sentence instead of a traceback."""

import json
import sys

import pytest

from fleet_rlm_jupyter import localdaytona


def test_windows_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert localdaytona.main(["--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "no_platform"
    assert "WSL" in err
    assert "DAYTONA_API_KEY" in err
