"""Which language models a run uses, found in a fixed order: setting, key, local server, offline recipes."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import dspy

from fleet_rlm_jupyter.domain.errors import BadSettings
from fleet_rlm_jupyter.engine.offline import OFFLINE_LABEL, OFFLINE_MODEL, recipes_lm
from fleet_rlm_jupyter.settings import ALSO, Loaded, Settings, keep_price_lists_local, variable

PROBE_SECONDS = 0.3

DEFAULT_MODELS = {
    "openai": "openai/gpt-5-mini",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "groq": "groq/openai/gpt-oss-120b",
    "openrouter": "openrouter/openai/gpt-5-mini",
    "deepseek": "deepseek/deepseek-chat",
    "xai": "xai/grok-4",
    "mistral": "mistral/mistral-large-latest",
}
"""What a provider's key alone stands for; any of it is overruled by the setting `model`."""

KEYLESS = {"ollama", "ollama_chat", "hosted_vllm", "vllm", "lm_studio"}
OTHER = {
    "azure",
    "bedrock",
    "vertex_ai",
    "together_ai",
    "moonshot",
    "fireworks_ai",
    "cohere",
    "databricks",
    "huggingface",
}

OWN_SERVERS = {"lm_studio": "http://127.0.0.1:1234/v1", "vllm": "http://127.0.0.1:8000/v1"}
"""Servers that DSPy reaches natively under the name `openai`, and where they listen unless api_base says otherwise."""

LOCAL_SERVERS = {
    "Ollama": "http://127.0.0.1:11434",
    "LM Studio": "http://127.0.0.1:1234",
    "llama-server": "http://127.0.0.1:8080",
    "vLLM": "http://127.0.0.1:8000",
}

ANSWER = "context, question -> answer"
RECIPE_ANSWER = "context, question -> answer: str, recipe: str, slots: dict[str, str], evidence: list[str]"


@dataclass(frozen=True, slots=True)
class Models:
    """The planner and the model of sub-queries, with what is said of them wherever a run is shown."""

    planner: dspy.LM
    sub: dspy.LM
    label: str
    source: str
    is_offline: bool
    signature: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A model string with the address it is asked at and the reason it was chosen."""

    model: str
    source: str
    api_base: str | None = None


def choose(loaded: Loaded) -> Choice:
    """The planner's model, by the order above. Probes loopback only when nothing is configured; raises BadSettings."""
    settings, sources = loaded.settings, loaded.sources
    if settings.model:
        return Choice(settings.model, sources.get("model", "argument"), settings.api_base)
    if settings.api_base:
        raise BadSettings("api_base is set but no model is", f"set {variable('model')} to the server's model name")
    for provider, model in DEFAULT_MODELS.items():
        if provider in settings.provider_keys:
            return Choice(model, sources.get(f"provider_keys.{provider}", "argument"))
    if settings.find_local_models:
        found = find_local_model()
        if found:
            return found
    return Choice(OFFLINE_MODEL, "the default: no model, key or local server was found")


def resolve(loaded: Loaded) -> Models:
    """Models for a run. Raises BadSettings for an unknown model string or a missing key, before any work."""
    settings = loaded.settings
    choice = choose(loaded)
    planner = _lm(choice.model, choice.api_base, settings)
    sub = _lm(settings.sub_model, settings.api_base, settings) if settings.sub_model else planner
    is_offline = choice.model == OFFLINE_MODEL
    label = OFFLINE_LABEL if is_offline else choice.model
    if settings.sub_model and settings.sub_model != choice.model:
        label += f" with {settings.sub_model} for sub-queries"
    return Models(planner, sub, label, choice.source, is_offline, RECIPE_ANSWER if is_offline else ANSWER)


def find_local_model() -> Choice | None:
    """The first model of the first server that answers on a usual loopback port within 0.3 s, all asked at once."""
    found: dict[str, Choice | None] = {}

    def ask(name: str, url: str) -> None:
        found[name] = _probe(name, url)

    # No pool: one that is left early would be waited for when the process ends.
    asking = [threading.Thread(target=ask, args=server, daemon=True) for server in LOCAL_SERVERS.items()]
    until = time.monotonic() + PROBE_SECONDS
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return next((choice for name in LOCAL_SERVERS if (choice := found.get(name))), None)


def _probe(name: str, url: str) -> Choice | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback
    try:
        with opener.open(f"{url}/v1/models", timeout=PROBE_SECONDS) as reply:
            models = json.loads(reply.read(1_000_000))["data"]
            return Choice(f"openai/{models[0]['id']}", f"{name} at {url}", f"{url}/v1")
    except (OSError, ValueError, LookupError, TypeError, urllib.error.URLError):
        return None


def _lm(model: str, api_base: str | None, settings: Settings) -> dspy.LM:
    if model == OFFLINE_MODEL:
        return recipes_lm()
    name = model if "/" in model or not api_base else f"openai/{model}"
    provider = _known_provider(name)
    if provider in OWN_SERVERS:
        api_base = api_base or OWN_SERVERS[provider]
        name, provider = f"openai/{name.partition('/')[2]}", "openai"
    keep_price_lists_local()
    options: dict[str, Any] = {"timeout": settings.model_seconds, "num_retries": settings.model_retries}
    # A provider's own key goes to that provider only, never to another address.
    key = settings.api_key if api_base else settings.provider_keys.get(provider) or settings.api_key
    if key:
        options["api_key"] = key.get_secret_value()
    elif api_base:
        options["api_key"] = "none"  # local servers take any key, the client insists on one
    elif provider in DEFAULT_MODELS:
        names = " or ".join(ALSO[f"provider_keys.{provider}"])
        raise BadSettings(f"{model} needs a key and there is none", f"export {names}, or choose offline/recipes")
    if api_base:
        options["api_base"] = api_base
    # DSPy's response cache ignores api_base, and an answer that cost nothing would not be what was asked for again.
    return dspy.LM(name, cache=False, max_tokens=settings.max_tokens, **options)


def _known_provider(model: str) -> str:
    provider, slash, name = model.partition("/")
    if slash and name and (provider in DEFAULT_MODELS or provider in KEYLESS or provider in OTHER):
        return provider
    raise BadSettings(
        f"{model!r} names no provider that is known",
        "write provider/model, e.g. openai/gpt-5 or ollama_chat/qwen3, or set api_base for a server of your own",
    )
