"""Every knob, typed and documented; the only reader of the environment.

Precedence: explicit argument > Jupyter config > environment > `.env` of the working folder > default. `budget.calls`
is the variable `FLEET_BUDGET__CALLS`; names that users of DSPy and fleet-rlm know are accepted beside it (`ALSO`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.domain.events import Limits
from fleet_rlm_jupyter.setting_groups import ContextSettings, DelegationSettings, WorkspaceSettings
from fleet_rlm_jupyter.setting_types import URL_PASSWORD, Pairs, SettingGroup, StoreUrl, Url, Words

PREFIX = "FLEET_"
_SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|DSN)$", re.I)

ALSO = {
    "model": ("DSPY_LM_MODEL",),
    "api_base": ("DSPY_LM_API_BASE",),
    "api_key": ("DSPY_LLM_API_KEY", "DSPY_LM_API_KEY"),
    "max_tokens": ("DSPY_LM_MAX_TOKENS",),
    "daytona.api_key": ("DAYTONA_API_KEY",),
    "daytona.api_url": ("DAYTONA_API_URL",),
    "daytona.target": ("DAYTONA_TARGET",),
    "provider_keys.openai": ("OPENAI_API_KEY",),
    "provider_keys.anthropic": ("ANTHROPIC_API_KEY",),
    "provider_keys.gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "provider_keys.groq": ("GROQ_API_KEY",),
    "provider_keys.openrouter": ("OPENROUTER_API_KEY",),
    "provider_keys.deepseek": ("DEEPSEEK_API_KEY",),
    "provider_keys.xai": ("XAI_API_KEY",),
    "provider_keys.azure": ("AZURE_OPENAI_API_KEY",),
    "provider_keys.mistral": ("MISTRAL_API_KEY",),
    "provider_keys.together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
}
"""Further variables of a setting, best first; its FLEET_ name wins over them."""

JUPYTER_CONFIG = "c.FleetApp.workbench_settings"
"""The trait of the server extension that holds settings by dotted name."""


class SandboxSettings(SettingGroup):
    """Where and how generated code runs."""

    level: Literal["auto", "L3", "L2", "L1"] = Field(
        default="auto", description="isolation of the local server; auto takes the best"
    )
    allow_unisolated: bool = Field(default=False, description="allow level L1, where model-written code runs as you")
    network: bool = Field(default=False, description="let sandboxes reach the network; Daytona only")
    allow_list: Words = Field(default=(), description="networks (CIDR) that sandboxes may reach; Daytona only")
    packages: Words = Field(default=(), description="packages that pip installs into a new sandbox; Daytona only")
    env: Pairs = Field(default={}, description="variables in a sandbox's environment, no secrets: its code sees them")
    snapshot: str | None = Field(default=None, description="Daytona's snapshot that sandboxes are made of")
    image: str | None = Field(
        default=None, description="image that sandboxes are made of, where no snapshot is; Daytona only"
    )
    cpu: int | None = Field(default=None, gt=0, description="processors of a sandbox, at least; Daytona only")
    memory_gb: int | None = Field(default=None, gt=0, description="memory of a sandbox, in GB")
    disk_gb: int | None = Field(default=None, gt=0, description="disk of a sandbox, in GB")
    auto_stop_minutes: int = Field(
        default=30,
        gt=0,
        description="minutes without use after which a sandbox stops, and is deleted if nobody kept it",
    )
    warm: int | None = Field(
        default=None, ge=0, description="sandboxes kept ready for children; 4 on the local server, none at Daytona"
    )
    volume: str = Field(
        default="fleet-rlm", min_length=1, description="volume that holds the sessions' files; none to do without one"
    )
    children: Literal["auto", "fork", "clean", "context"] = Field(
        default="auto", description="a child's sandbox: forked from its parent's, clean, or a new REPL in the same"
    )
    fork_fallback: Literal["clean", "fail"] = Field(
        default="clean", description="what a child gets where a fork was asked for and cannot be had"
    )
    memory_mb: int = Field(
        default=2048, ge=128, description="memory in MB of a local process, and of a sandbox where groups are delegated"
    )
    cell_seconds: float = Field(
        default=300, gt=0, description="seconds one cell may run, waiting for sub-calls left out"
    )
    facade: bool = Field(
        default=False, description="let generated code build DSPy programs with `import dspy`, within depth and budget"
    )
    output_chars: int = Field(default=100_000, ge=1000, description="characters kept of a cell's output, head and tail")


class DaytonaSettings(SettingGroup):
    """Access to Daytona; without a key the local server is used."""

    api_key: SecretStr | None = Field(default=None, description="key for Daytona's cloud or your own Daytona")
    api_url: Url | None = Field(default=None, description="where Daytona's API is, e.g. https://app.daytona.io/api")
    target: str | None = Field(default=None, description="the region")


class StoreSettings(SettingGroup):
    """Where runs and sessions are kept."""

    url: StoreUrl | None = Field(
        default=None, description="database; a SQLite file in the Jupyter data folder where unset"
    )
    retention_days: float | None = Field(
        default=None, gt=0, description="days after their end that runs are kept; for ever where unset"
    )

    snapshots: bool = Field(
        default=False, description="keep what every question was asked, to evaluate on; else where it is wanted"
    )

    @field_serializer("url", when_used="json")
    def _without_password(self, url: str | None) -> str | None:
        return url and URL_PASSWORD.sub(r"\1**********@", url)


class MemorySettings(SettingGroup):
    """What questions are told of what their user approved to be remembered."""

    items: int = Field(default=20, ge=0, le=200, description="most approved notes that a question is told; 0 for none")
    chars: int = Field(default=4000, ge=0, le=100_000, description="most characters of them together")
    propose: bool = Field(
        default=True, description="let a model's code propose notes, which are told to nobody until they are approved"
    )


class Settings(SettingGroup):
    """All settings of one Workbench. `Settings(...)` is what its arguments say; `load` reads the environment too."""

    model: str | None = Field(default=None, description="planner, a DSPy model string; offline/recipes needs no key")
    sub_model: str | None = Field(default=None, description="model for sub-queries; the planner's where unset")
    api_base: Url | None = Field(
        default=None, description="URL of an OpenAI-compatible server, for planner and sub-model"
    )
    api_key: SecretStr | None = Field(
        default=None, description="key of the model, where its provider's own variable is unset"
    )
    max_tokens: int | None = Field(default=None, gt=0, description="most tokens of one answer of the model")
    model_seconds: float = Field(default=120, gt=0, description="seconds after which one LM call counts as timed out")
    model_retries: int = Field(default=3, ge=0, description="tries after the first when a provider is busy or fails")
    find_local_models: bool = Field(
        default=True, description="look for model servers on loopback when nothing is configured"
    )
    budget: Limits = Field(default=Limits(), description="what one run may spend")
    sandbox: SandboxSettings = SandboxSettings()
    daytona: DaytonaSettings = DaytonaSettings()
    context: ContextSettings = ContextSettings()
    workspace: WorkspaceSettings = WorkspaceSettings()
    delegation: DelegationSettings = DelegationSettings()
    store: StoreSettings = StoreSettings()
    memory: MemorySettings = MemorySettings()
    server_url: Url | None = Field(default=None, description="Jupyter server where a notebook's questions run")
    server_token: SecretStr | None = Field(default=None, description="token of that server")
    provider_keys: dict[str, SecretStr] = Field(default={}, description="keys from the providers' own variables")

    @classmethod
    def names(cls) -> list[str]:
        """Every setting by its dotted name."""
        return [name for name, _ in _leaves(cls)]


class Loaded(BaseModel):
    """Settings and where each came from: dotted name → "argument", JUPYTER_CONFIG, variable or "NAME in PATH/.env"."""

    model_config = ConfigDict(frozen=True)

    settings: Settings
    sources: dict[str, str]

    @classmethod
    def of(cls, settings: Settings | Loaded | None) -> Loaded:
        """`settings` as given, which nobody but the caller set; of None, what is to be found."""
        if settings is None:
            return load()
        return cls(settings=settings, sources={}) if isinstance(settings, Settings) else settings


def load(
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    config: Mapping[str, Any] | None = None,
) -> Loaded:
    """Settings from `overrides` and Jupyter's `config` (by dotted name), the environment and `folder`/.env.

    Raises BadSettings for an unknown name, a value that cannot be, a `.env` that is no text, or a
    DAYTONA_API_BASE_URL that nothing reads.
    """
    given, configured = _known(overrides or {}), _known(config or {}, f" in {JUPYTER_CONFIG}")
    process = dict(os.environ if environ is None else environ)
    env_file = (folder or Path.cwd()) / ".env"
    in_file = _in_file(env_file)
    found: dict[str, tuple[Any, str]] = {}
    for variables, where in ((in_file, f" in {env_file}"), (process, "")):
        _refuse_unknown(variables, where)
        found.update({name: (value, variable + where) for name, variable, value in _from_names(variables)})
    found.update({name: (value, JUPYTER_CONFIG) for name, value in configured.items()})
    found.update({name: (value, "argument") for name, value in given.items()})
    _refuse_half_configured_daytona(found, {**in_file, **process})
    nested: dict[str, Any] = {}
    for name, (value, _) in found.items():
        _put(nested, name, value)
    sources = {name: source for name, (_, source) in found.items()}
    try:
        return Loaded(settings=Settings.model_validate(nested), sources=sources)
    except ValidationError as err:
        raise explained(err, sources) from err


def _known(given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """What is set of it; raises BadSettings for a name that is no setting."""
    for name in given:
        if name not in Settings.names() and name not in ALSO:
            raise _no_such(name, Settings.names(), where)
    return {name: value for name, value in given.items() if value is not None}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper().replace(".", "__")


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{name}.")
        elif name != "provider_keys":
            yield prefix + name, field.description or ""


def describe() -> dict[str, str]:
    """Dotted name → what the setting does, for `fleet doctor` and the reference page."""
    return dict(_leaves(Settings))


def _in_file(path: Path) -> dict[str, str]:
    try:
        return {key: value for key, value in dotenv_values(path).items() if value is not None}
    except UnicodeDecodeError as err:
        raise BadSettings(f"{path} is not UTF-8 text", "save it as UTF-8, or move it away") from err
    except OSError as err:
        raise BadSettings(f"{path} cannot be read: {err.strerror}", "check its permissions, or move it away") from err


def _from_names(variables: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(setting, variable, value) for what `variables` sets; an empty text means unset, as in a shell."""
    for name in (*Settings.names(), *(name for name in ALSO if name.startswith("provider_keys."))):
        for known in (variable(name), *ALSO.get(name, ())):
            if variables.get(known):
                yield name, known, variables[known]
                break


def _refuse_unknown(variables: Mapping[str, str], where: str) -> None:
    known = {variable(name) for name in Settings.names()}
    for name in variables:
        if name.startswith(PREFIX) and name not in known:
            raise _no_such(name, known, where)


def _no_such(name: str, known: Iterable[str], where: str = "") -> BadSettings:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else "`fleet doctor` lists every setting"
    return BadSettings(f"there is no setting {name}{where}", hint)


def _refuse_half_configured_daytona(found: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    if variables.get("DAYTONA_API_BASE_URL") and "daytona.api_url" not in found:
        raise BadSettings(
            "DAYTONA_API_BASE_URL is not read", "name it DAYTONA_API_URL, or unset it to use the local sandbox"
        )
    if "daytona.api_key" in found and "daytona.api_url" not in found:
        raise BadSettings(
            "DAYTONA_API_KEY is set but DAYTONA_API_URL is not",
            "export DAYTONA_API_URL=https://app.daytona.io/api, or unset the key to use the local sandbox",
        )
    if "daytona.api_url" in found and "daytona.api_key" not in found:
        raise BadSettings(
            "DAYTONA_API_URL is set but DAYTONA_API_KEY is not",
            "export DAYTONA_API_KEY, or unset the URL to use the local sandbox",
        )


def _put(nested: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        nested = nested.setdefault(group, {})
    nested[last] = value


def explained(err: ValidationError, sources: Mapping[str, str]) -> BadSettings:
    """What is wrong with the first bad value, which is repeated where it cannot be a key."""
    first = err.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    # Texts may be keys in the wrong place; what fails as a number, a choice or a switch is worth repeating.
    shown = "" if "key" in name or first["type"] in ("value_error", "string_type") else f" {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return BadSettings(f"{name}{shown}: {message}", f"change it ({sources.get(name, 'argument')})")


def secrets_of(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """What must never be written: keys of `settings`, its store's password, and what the environment calls a secret."""
    process = os.environ if environ is None else environ
    named = [value for name, value in process.items() if _SECRET_NAME.search(name)]
    password = URL_PASSWORD.match(settings.store.url or "")
    return [*named, *([unquote(password[2]), password[2]] if password else [])]


def data_folder() -> Path:
    """Where runs, contexts and local volumes are kept: `fleet_rlm` in the Jupyter data folder."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "fleet_rlm"


def kernel_variables() -> dict[str, str]:
    """What Jupyter and a Hub tell a kernel about where it runs, by the names of the variables; unset ones are empty."""
    names = ("JPY_PARENT_PID", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_API_TOKEN")
    return {name: os.environ.get(name, "") for name in names}


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment for a server of ours, with `more`; keys and tokens stay behind."""
    own = ("api_key", "daytona.api_key", "server_token", "workspace.token")
    secret = {name for names in ALSO.values() for name in names} | {variable(name) for name in own}
    secret |= {"JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN", "JUPYTER_TOKEN"}
    return {**{name: value for name, value in os.environ.items() if name not in secret}, **more}


def bypass_proxies_for_loopback() -> None:
    """Put loopback into NO_PROXY: the SDK sends even 127.0.0.1 through an `http_proxy`."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def keep_price_lists_local() -> None:
    """Have DSPy and LiteLLM use the price lists they ship: both would fetch newer ones that nobody asked for."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
