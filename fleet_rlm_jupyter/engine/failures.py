"""DSPy's errors in our words, each with its next step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dspy
from dspy.primitives.code_interpreter import CodeInterpreterError
from dspy.utils.exceptions import AdapterParseError

from fleet_rlm_jupyter.domain.errors import FleetError, ModelFailed, SandboxError
from fleet_rlm_jupyter.engine.offline import OFFLINE_MODEL


def explained(err: BaseException) -> BaseException:
    """`err` as one of ours, with the next step, where its family is known."""
    if isinstance(err, FleetError):
        return err
    if isinstance(err, CodeInterpreterError):
        cause = err.__cause__
        return cause if isinstance(cause, SandboxError) else SandboxError(str(err), "ask again; `fleet doctor` checks")
    if isinstance(err, dspy.LMError):
        return _explained_lm_error(err)
    if isinstance(err, AdapterParseError) and _is_last_call(err):
        text = "the planner submitted no answer in the steps it has, and none could be drawn from them"
        return ModelFailed(text, "try a larger model, or ask something smaller")
    if isinstance(err, AdapterParseError):
        return ModelFailed("the model's answer did not have the form that was asked for", "try a larger model")
    return err


def _is_last_call(err: AdapterParseError) -> bool:
    """Whether the call is the one by which an RLM ends when its steps have run out."""
    signature: Any = err.signature
    fields = signature.input_fields
    return "repl_history" in fields and "iteration" not in fields


def _explained_lm_error(err: dspy.LMError) -> ModelFailed:
    if err.model == OFFLINE_MODEL:
        return ModelFailed(err.message, "ask it differently, or with --recipe; `fleet recipes` lists them")
    text, hint = _SAID.get(_kind_of(err)) or (
        f"the model failed ({type(err).__name__})",
        "ask again, or choose another model",
    )
    # The provider's own words may hold what was sent; only its name and status are repeated.
    status = f" (status {err.status})" if err.status else ""
    return ModelFailed(text + status, hint)


_SAID: dict[str | None, tuple[str, str]] = {
    "auth": ("the provider refused the key", "check the provider's key, or `fleet doctor`"),
    "not_configured": ("the model has no key or address", "`fleet doctor` says what is missing"),
    "rate_limit": ("the provider says there were too many requests", "wait and ask again, or lower budget.batch"),
    "billing": ("the provider says the account has no credit", "top it up, or choose another model"),
    "timeout": ("the model did not answer in time", "raise model_seconds, or choose another model"),
    "transport": ("the model's server could not be reached", "check api_base and the network"),
    "broken_off": ("the model's answer broke off", "ask again, or check the network and the model's server"),
    "malformed": ("the model's server sent something that is no answer", "check that api_base speaks OpenAI's API"),
    "unsupported_model": ("the provider does not know the model", "check the name in FLEET_MODEL and api_base"),
    "invalid_request": ("the provider refused the request", "check the model's name and max_tokens"),
    "context_window_exceeded": ("a prompt was longer than the model's window", "choose a model with a larger one"),
    "empty_answer": ("the model answered nothing", "ask again, or raise max_tokens"),
    "server": ("the provider had an error of its own", "ask again in a while"),
}


def _kind_of(err: dspy.LMError) -> str | None:
    """What went wrong, in the same words for both engines, which class it differently."""
    chain = list(_causes(err))
    if err.status == 408 or any(isinstance(one, TimeoutError) for one in chain):
        return "timeout"
    # LiteLLM's class for it cannot be imported here: it takes seconds.
    is_cut = any(type(one).__name__ in ("MidStreamFallbackError", "ProtocolError") for one in chain)
    if err.code == "stream_assembly" or is_cut:
        return "broken_off"
    if err.status == 404:
        return "unsupported_model"
    if err.code == "unexpected" and any(isinstance(one, ValueError) for one in chain):
        return "malformed"
    if err.code == "invalid_request" and "context_length_exceeded" in str(err):
        return "context_window_exceeded"
    return err.code


def _causes(err: BaseException | None) -> Iterator[BaseException]:
    """The error and those it came from, the nearest first."""
    while err is not None:
        yield err
        err = err.__cause__ or err.__context__
