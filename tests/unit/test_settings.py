"""Where a setting comes from, what is refused, and that no key is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.settings import ALSO, JUPYTER_CONFIG, Settings, describe, load, variable

SECRET = "sk-VERY-secret-0123456789"
NUMBERS = [
    "max_tokens", "model_seconds", "model_retries",
    "budget.calls", "budget.sub_calls", "budget.tokens", "budget.cost", "budget.seconds",
    "budget.depth", "budget.sandboxes", "budget.siblings", "budget.batch", "sandbox.memory_mb", "sandbox.cell_seconds",
    "sandbox.output_chars", "context.max_mb", "context.max_files", "sandbox.cpu", "sandbox.memory_gb",
    "sandbox.disk_gb", "sandbox.auto_stop_minutes", "store.retention_days", "workspace.clone_seconds",
    "workspace.cache_mb",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A working folder whose .env a test writes."""
    return tmp_path


def value_of(settings: Settings, name: str) -> object:
    found: object = settings
    for part in name.split("."):
        found = getattr(found, part)
    return found


def test_without_anything_the_defaults_hold_and_no_source_is_named(folder):
    loaded = load({}, {}, folder)
    assert loaded.settings == Settings()
    assert loaded.sources == {}


def test_an_argument_beats_the_environment_beats_the_file_beats_the_default(folder):
    (folder / ".env").write_text(
        "FLEET_BUDGET__CALLS=1\nFLEET_BUDGET__DEPTH=1\nexport FLEET_BUDGET__BATCH=1\nFLEET_MODEL='in/file'\n# note\n"
    )
    loaded = load(
        {"budget.calls": 3}, {"FLEET_BUDGET__CALLS": "2", "FLEET_BUDGET__DEPTH": "2", "FLEET_MODEL": ""}, folder
    )
    budget = loaded.settings.budget
    assert (budget.calls, budget.depth, budget.batch, budget.sandboxes) == (3, 2, 1, 8)
    assert loaded.settings.model == "in/file", "an empty variable is an unset one"
    assert loaded.sources == {
        "budget.calls": "argument",
        "budget.depth": "FLEET_BUDGET__DEPTH",
        "budget.batch": f"FLEET_BUDGET__BATCH in {folder / '.env'}",
        "model": f"FLEET_MODEL in {folder / '.env'}",
    }


def test_an_argument_that_was_not_given_changes_nothing(folder):
    assert load({"model": None}, {"FLEET_MODEL": "a/b"}, folder).settings.model == "a/b"


@pytest.mark.parametrize("name", Settings.names())
def test_every_setting_has_a_variable_and_a_description(name):
    assert variable(name) == "FLEET_" + name.upper().replace(".", "__")
    assert describe()[name]


@pytest.mark.parametrize("name", Settings.names())
def test_every_setting_can_come_from_its_variable(name, folder):
    plain: dict[str, str] = {
        "sandbox.level": "L1",
        "daytona.api_url": "https://x/api",
        "api_base": "http://x/v1",
        "server_url": "http://x/",
        "sandbox.env": "A=1",
        "sandbox.warm": "3",
        "memory.items": "3",
        "memory.chars": "3",
        "sandbox.children": "clean",
        "sandbox.fork_fallback": "fail",
        "delegation.urls": "question",
        "store.url": "sqlite:////tmp/x/fleet.db",
    }
    text = plain.get(name) or ("1000" if name in NUMBERS else "true")
    environ = {"DAYTONA_API_KEY": "k", "DAYTONA_API_URL": "https://y/api", variable(name): text}
    loaded = load({}, environ, folder)
    assert loaded.sources[name] == variable(name)
    value = value_of(loaded.settings, name)
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()  # type: ignore[union-attr]
    if isinstance(value, tuple):
        (value,) = value
    assert str(value).lower() in (text.lower(), text + ".0", "{'a': '1'}")


@pytest.mark.parametrize(("name", "known"), [(name, known) for name, also in ALSO.items() for known in also])
def test_names_that_others_use_are_known(name, known, folder):
    environ = {
        "DAYTONA_API_KEY": "k",
        "DAYTONA_API_URL": "https://y/api",
        known: "7" if name == "max_tokens" else "http://v",
    }
    loaded = load({}, environ, folder)
    assert loaded.sources[name] == known


def test_our_own_name_beats_the_other_names(folder):
    environ = {"FLEET_MODEL": "ours/m", "DSPY_LM_MODEL": "theirs/m", "DSPY_LM_API_KEY": "b", "DSPY_LLM_API_KEY": "a"}
    loaded = load({}, environ, folder)
    assert loaded.settings.model == "ours/m"
    assert loaded.settings.api_key is not None
    assert loaded.settings.api_key.get_secret_value() == "a"
    assert loaded.sources == {"model": "FLEET_MODEL", "api_key": "DSPY_LLM_API_KEY"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FLEET_BUDGET_CALLS", "FLEET_BUDGET__CALLS"),
        ("FLEET_MODL", "FLEET_MODEL"),
        ("FLEET_SANDBOX__ALLOW_UNISOLATE", "FLEET_SANDBOX__ALLOW_UNISOLATED"),
        ("FLEET_budget__calls", "fleet doctor"),
        ("FLEET_ZZZZZZZZ", "fleet doctor"),
    ],
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_variable_is_refused_with_a_suggestion(name, meant, where, folder):
    environ = {name: SECRET} if where == "environment" else {}
    if where == "file":
        (folder / ".env").write_text(f"{name}={SECRET}\n")
    with pytest.raises(BadSettings) as caught:
        load({}, environ, folder)
    assert name in caught.value.text
    assert meant in caught.value.hint
    assert (str(folder) in caught.value.text) == (where == "file")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("budget.cals", "budget.calls"), ("modl", "model"), ("sandbox.memory", "sandbox.memory_mb"), ("zzz", "doctor")],
)
def test_an_unknown_argument_is_refused_with_a_suggestion(name, meant, folder):
    with pytest.raises(BadSettings) as caught:
        load({name: "1"}, {}, folder)
    assert name in caught.value.text
    assert meant in caught.value.hint


@pytest.mark.parametrize("names", [["model.x", "model"], ["model", "model.x"], ["budget", "budget.calls"]])
def test_a_setting_that_is_taken_for_a_group_is_refused(names, folder):
    with pytest.raises(BadSettings):
        load(dict.fromkeys(names, "1"), {"FLEET_MODEL": "a/b", "FLEET_BUDGET__CALLS": "3"}, folder)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in ("model_retries", "workspace.cache_mb")])
@pytest.mark.parametrize("value", [0, -1, "0", "-3", "nan", "inf", "-inf", "many", "1e999", "1_0x"])
def test_a_number_that_cannot_be_is_refused(name, value, folder):
    with pytest.raises(BadSettings) as caught:
        load({name: value}, {}, folder)
    assert name in caught.value.text
    assert str(value) in caught.value.text
    assert "argument" in caught.value.hint
    with pytest.raises(BadSettings, match=variable(name)):
        load({}, {variable(name): str(value)}, folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sandbox.level", "L7"), ("sandbox.allow_unisolated", "maybe"), ("api_base", "localhost:8000"),
        ("daytona.api_url", "app.daytona.io"), ("budget.calls", "1.5"), ("budget.seconds", "1e12"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(name, value, folder):
    with pytest.raises(BadSettings, match=name.replace(".", r"\.")):
        load({"daytona.api_key": "k", "daytona.api_url": "https://x", name: value}, {}, folder)


def test_daytonas_old_variable_alone_is_a_clear_error(folder):
    for environ in ({"DAYTONA_API_BASE_URL": "x"}, {"DAYTONA_API_BASE_URL": "x", "DAYTONA_API_KEY": SECRET}):
        with pytest.raises(BadSettings) as caught:
            load({}, environ, folder)
        assert "DAYTONA_API_BASE_URL is not read" in caught.value.text
        assert "DAYTONA_API_URL" in caught.value.hint
        assert SECRET not in str(caught.value)
    (folder / ".env").write_text("DAYTONA_API_BASE_URL=x\n")
    with pytest.raises(BadSettings):
        load({}, {}, folder)


def test_daytonas_old_variable_beside_the_new_one_does_no_harm(folder):
    both = {"DAYTONA_API_BASE_URL": "x", "DAYTONA_API_URL": "https://y", "DAYTONA_API_KEY": SECRET}
    assert load({}, both, folder).settings.daytona.api_url == "https://y"


@pytest.mark.parametrize(
    ("given_name", "missing"), [("DAYTONA_API_KEY", "DAYTONA_API_URL"), ("DAYTONA_API_URL", "DAYTONA_API_KEY")]
)
def test_half_of_daytona_is_refused_and_the_other_half_named(given_name, missing, folder):
    with pytest.raises(BadSettings) as caught:
        load({}, {given_name: "https://" + SECRET}, folder)
    assert f"{missing} is not" in caught.value.text
    assert missing in caught.value.hint
    assert SECRET not in str(caught.value)


@given(
    st.sampled_from([name for name in [*Settings.names(), *ALSO] if "key" in name]),
    st.text(max_size=40).map("S€cret".__add__),
)
def test_a_key_is_never_shown(name, secret):
    overrides = {"daytona.api_url": "https://x", "daytona.api_key": "k", name: secret}
    loaded = load(overrides, {}, None)
    shown = f"{loaded!r} {loaded} {loaded.settings.model_dump()} {loaded.model_dump_json()}"
    assert repr(secret)[1:-1] not in shown
    assert secret not in shown
    with pytest.raises(BadSettings) as caught:
        load({**overrides, "budget.calls": 0}, {}, None)
    assert secret not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", {"oops": SECRET}), ("daytona.api_key", [SECRET]), ("provider_keys", SECRET),
        ("provider_keys.openai", [SECRET]), ("api_base", SECRET), ("daytona.api_url", SECRET),
    ],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_not_repeated(name, value, folder):
    with pytest.raises(BadSettings) as caught:
        load({"daytona.api_url": "https://x", "daytona.api_key": "k", name: value}, {}, folder)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"FLEET_MODEL=\xe9\n"])
def test_a_file_that_is_no_text_is_said(content, folder):
    (folder / ".env").write_bytes(content)
    with pytest.raises(BadSettings, match=r"\.env"):
        load({}, {}, folder)


def test_a_folder_of_that_name_is_no_settings_file(folder):
    (folder / ".env").mkdir()
    assert load({}, {}, folder).sources == {}


def test_nothing_but_the_given_environment_is_read(folder, monkeypatch):
    monkeypatch.setenv("FLEET_MODEL", "from/process")
    assert load({}, {}, folder).settings.model is None
    assert load({}, None, folder).settings.model == "from/process"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Settings().model = "x"


def test_lists_and_maps_can_come_from_variables(folder):
    environ = {
        "FLEET_SANDBOX__PACKAGES": "numpy==2.1, httpx",
        "FLEET_SANDBOX__ENV": "A=1,B=x=y",
        "FLEET_SANDBOX__ALLOW_LIST": "10.0.0.0/8,192.0.2.0/24",
    }
    sandbox = load({}, environ, folder).settings.sandbox
    assert sandbox.packages == ("numpy==2.1", "httpx")
    assert sandbox.env == {"A": "1", "B": "x=y"}
    assert sandbox.allow_list == ("10.0.0.0/8", "192.0.2.0/24")
    assert load({}, {"FLEET_SANDBOX__ENV": '{"A": "a, b"}'}, folder).settings.sandbox.env == {"A": "a, b"}


@pytest.mark.parametrize("text", ["A", "{nonsense", '{"A": 1}'])
def test_a_map_that_is_none_is_refused(text, folder):
    with pytest.raises(BadSettings, match="env"):
        load({}, {"FLEET_SANDBOX__ENV": text}, folder)


def test_jupyter_config_wins_over_the_environment_and_loses_to_an_argument(tmp_path):
    environ = {"FLEET_MODEL": "from/environment", "FLEET_BUDGET__CALLS": "7"}
    config = {"model": "from/config", "budget.depth": 1}
    loaded = load({"budget.depth": 3}, environ, tmp_path, config)
    assert (loaded.settings.model, loaded.settings.budget.calls, loaded.settings.budget.depth) == ("from/config", 7, 3)
    assert loaded.sources["model"] == JUPYTER_CONFIG
    with pytest.raises(BadSettings, match=r"no setting modelname in c\.FleetApp\.workbench_settings"):
        load({}, {}, tmp_path, {"modelname": "x"})
