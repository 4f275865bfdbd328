"""No key gets through where facts become events, in whatever pieces and wherever in them it comes."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from fleet_rlm_jupyter.domain.errors import ErrorText
from fleet_rlm_jupyter.domain.events import (
    ArtifactWritten,
    CallEnded,
    CallStarted,
    CallText,
    Event,
    Limits,
    Log,
    QuestionAsked,
    RunEnded,
    RunStarted,
    SandboxChanged,
    Unrecognized,
)
from fleet_rlm_jupyter.domain.masking import STARS, Mask, MaskedFacts
from fleet_rlm_jupyter.engine.trace import Trace
from fleet_rlm_jupyter.settings import Settings, secrets_of

keys = st.text(string.ascii_letters + string.digits + "-_./+=$\"\\'{}é", min_size=6, max_size=40)
words = st.text(max_size=30)


def shown(pieces: list[str], mask: Mask) -> str:
    """What a reader of the trace puts together."""
    trace = Trace("r", "s", mask=mask)
    for piece in pieces:
        trace.append(CallText(channel="stdout", text=piece), "c")
    trace.append(CallEnded(), "c")
    return "".join(event.fact.text for event in trace.events if isinstance(event.fact, CallText))


@st.composite
def cut_up(draw, texts):
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(st.data(), st.lists(keys, min_size=1, max_size=4))
def test_a_key_in_pieces_does_not_get_through(data, secrets):
    parts = st.lists(st.one_of(words, st.sampled_from(secrets)), max_size=8).map("".join)
    text = shown(data.draw(cut_up(parts)), Mask(secrets, home=""))
    assert not any(secret in text for secret in secrets if secret not in STARS)


@given(cut_up(st.text(max_size=80)))
def test_text_without_a_key_comes_through_whole(pieces):
    mask = Mask(["plum-tree-7519"], home="")
    if mask("".join(pieces)) == "".join(pieces):
        assert shown(pieces, mask) == "".join(pieces)


@given(st.data(), st.sampled_from(["sk-", "gsk_", "hf_", "ghp_", "github_pat_", "xai-", "dtn_"]))
def test_what_looks_like_a_key_does_not_get_through_in_pieces(data, begin):
    key = begin + data.draw(st.text(string.ascii_letters + string.digits, min_size=36, max_size=60))
    text = shown(data.draw(cut_up(st.just(f"before {key} after"))), Mask(home=""))
    assert text == f"before {STARS} after"


def facts_with(key: str) -> list:
    error = ErrorText(code="x", text=f"bad {key}", hint=f"change {key}")
    return [
        RunStarted(program="ask", message=key, model=key, limits=Limits(), isolation=key, note=f"a {key}"),
        CallStarted(parent_id=None, kind="tool", name=key, depth=1, inputs={key: f"x{key}"}),
        CallEnded(outputs=f"{key}{key}", error=error),
        SandboxChanged(sandbox_id="x", state="lost", isolation="L3", reason=key),
        ArtifactWritten(path=f"artifacts/{key}", bytes=1, sha256="a"),
        QuestionAsked(text=key, options=[key]),
        Log(level="error", text=key),
        Unrecognized(type="new.one", data={"deep": [{key: key}]}),
        RunEnded(status="failed", answer=key, outputs={"more": {key: [key]}}, error=error),
    ]


@given(keys)
def test_a_key_anywhere_in_a_fact_does_not_get_through(key):
    key = f"plum{key}"
    masked = MaskedFacts(Mask([key], home=""))
    for fact in facts_with(key):
        for shown_fact, _ in masked(fact, "c"):
            line = Event(seq=0, at=1.0, session_id="s", run_id="r", call_id="c", fact=shown_fact).encode()
            texts = list(_texts(Event.decode(line).fact.model_dump()))
            assert not any("plum" in text for text in texts)
            assert any(STARS in text for text in texts)


@pytest.mark.parametrize("key", ["call.ended", "outputs", "message", "failed", "sandbox", "cancelled", "call.e"])
def test_a_key_that_is_a_word_of_ours_hides_in_texts_and_breaks_nothing(key):
    masked = MaskedFacts(Mask([key], home=""))
    for fact in [*facts_with(key), RunEnded(status="cancelled")]:
        for shown_fact, _ in masked(fact, "c"):
            line = Event(seq=0, at=1.0, session_id="s", run_id="r", call_id="c", fact=shown_fact).encode()
            read = Event.decode(line).fact
            assert read.type == fact.type
            assert getattr(read, "status", None) == getattr(fact, "status", None)
            told = {**read.model_dump(), "type": "", "status": "", "state": ""}
            assert key not in [text for text in _texts(list(told.values())) if text not in ErrorText.model_fields]


def _texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from (name, *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


@pytest.mark.parametrize(
    "variable",
    [
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "JUPYTERHUB_API_TOKEN",
        "HF_TOKEN",
        "DB_PASSWORD",
        "SENTRY_DSN",
        "MY_SECRET",
    ],
)
def test_what_the_environment_calls_a_secret_is_one(variable):
    mask = Mask.of(Settings(), secrets_of(Settings(), {variable: "plum-7519-x", "PATH": "/usr/local/bin"}), home="")
    assert mask("it is plum-7519-x in /usr/local/bin") == f"it is {STARS} in /usr/local/bin"


def test_the_stores_password_and_every_key_of_the_settings_are_secrets():
    settings = Settings.model_validate(
        {
            "api_key": "key-of-the-model",
            "daytona": {"api_key": "key-of-daytona", "api_url": "https://x/api"},
            "provider_keys": {"openai": SecretStr("key-of-openai")},
            "store": {"url": "postgresql://me:plum%2D7519@host/db"},
        }
    )
    mask = Mask.of(settings, secrets_of(settings, {}), home="")
    for secret in ("key-of-the-model", "key-of-daytona", "key-of-openai", "plum-7519", "plum%2D7519"):
        assert mask(secret) == STARS
    assert "plum" not in settings.model_dump_json()
