"""Which model a run gets, in which order, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dspy.clients.backend_selection import select_backend
from llmock.testing import LLMockServer
from web import Silent, Web

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.engine import models
from fleet_rlm_jupyter.settings import load

NOWHERE = {"find_local_models": False}


def choose(overrides=None, **environ):
    return models.choose(load({**NOWHERE, **(overrides or {})}, environ=environ))


def test_an_explicit_setting_comes_first():
    chosen = choose({"model": "openai/a"}, FLEET_MODEL="openai/b", OPENAI_API_KEY="k")
    assert (chosen.model, chosen.source) == ("openai/a", "argument")


def test_the_environment_comes_before_a_key():
    assert choose(FLEET_MODEL="openai/b", OPENAI_API_KEY="k").source == "FLEET_MODEL"
    assert choose(DSPY_LM_MODEL="openai/c").model == "openai/c"


def test_a_providers_key_stands_for_its_default_model():
    chosen = choose(ANTHROPIC_API_KEY="k")
    assert chosen.model.startswith("anthropic/")
    assert chosen.source == "ANTHROPIC_API_KEY"


def test_a_server_on_loopback_comes_before_recipes(monkeypatch):
    with LLMockServer() as server:
        monkeypatch.setattr(models, "LOCAL_SERVERS", {"Nobody": "http://127.0.0.1:9", "Ollama": server.url})
        chosen = models.choose(load({}, environ={}))
    assert chosen.api_base == f"{server.url}/v1"
    assert chosen.model.startswith("openai/")
    assert chosen.source == f"Ollama at {server.url}"


def test_servers_that_are_silent_or_slow_cost_a_third_of_a_second_together(monkeypatch):
    with Web() as slow, Silent() as silent:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
        slow.routes["/v1/models"] = slow.drip(head, b" ")
        servers = {"Slow": slow.url, **{f"Silent {n}": f"http://127.0.0.1:{silent.port}" for n in range(3)}}
        monkeypatch.setattr(models, "LOCAL_SERVERS", servers)
        begun = time.monotonic()
        assert models.find_local_model() is None
        assert time.monotonic() - begun < models.PROBE_SECONDS + 0.5
        assert silent.connects == 3
        assert slow.asked


def test_loopback_is_not_asked_when_something_is_configured(monkeypatch):
    monkeypatch.setattr(models, "find_local_model", lambda: pytest.fail("asked"))
    models.choose(load({"model": "openai/a"}, environ={}))
    models.choose(load({}, environ={"OPENAI_API_KEY": "k"}))
    models.choose(load(NOWHERE, environ={}))


def test_without_anything_there_are_the_recipes():
    resolved = models.resolve(load(NOWHERE, environ={}))
    assert resolved.is_offline
    assert resolved.label == "offline recipes (not a language model)"
    assert "no model, key or local server" in resolved.source


@pytest.mark.parametrize("name", ["gpt-5", "nobody/x", "openai/", "/x", ""])
def test_a_model_string_without_a_known_provider_is_refused(name):
    if name:
        with pytest.raises(BadSettings, match="no provider that is known"):
            models.resolve(load({**NOWHERE, "model": name}, environ={}))
    else:
        assert models.resolve(load({**NOWHERE, "model": name}, environ={})).is_offline


def test_a_missing_key_is_refused_before_any_work():
    with pytest.raises(BadSettings) as refused:
        models.resolve(load({**NOWHERE, "model": "anthropic/claude-x"}, environ={"OPENAI_API_KEY": "k"}))
    assert "ANTHROPIC_API_KEY" in refused.value.hint


def test_an_address_without_a_model_is_refused():
    with pytest.raises(BadSettings, match="no model"):
        models.resolve(load({**NOWHERE, "api_base": "http://127.0.0.1:1/v1"}, environ={}))


def test_settings_reach_the_model():
    given = {**NOWHERE, "model": "openai/a", "model_seconds": 7, "model_retries": 1, "max_tokens": 99}
    lm = models.resolve(load(given, environ={"OPENAI_API_KEY": "k"})).planner
    assert (lm.kwargs["timeout"], lm.num_retries, lm.kwargs["max_tokens"]) == (7, 1, 99)
    assert lm.cache is False


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "models.md"
ROWS = [
    [cell.strip(" `") for cell in line.split("|")[1:-1]]
    for line in PAGE.read_text("utf-8").splitlines()
    if "FLEET_MODEL=" in line and line.startswith("|")
]


def test_the_page_names_every_provider_there_is():
    assert {row[0] for row in ROWS} == set(models.DEFAULT_MODELS) | models.KEYLESS | models.OTHER


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_page_says_which_route_a_provider_takes_and_which_key_it_needs(row):
    provider, route, key, line = row
    model = line.removeprefix("FLEET_MODEL=")
    assert model.startswith(f"{provider}/")
    environ = {"FLEET_MODEL": model} | ({key: "k"} if key.endswith("_API_KEY") else {})
    lm = models.resolve(load(NOWHERE, environ=environ)).planner
    assert select_backend(lm).native is (route == "native")
    assert (lm.kwargs.get("api_key") == "k") is key.endswith("_API_KEY")
