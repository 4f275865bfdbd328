"""DSPy's errors in our words, each with its next step."""

from __future__ import annotations

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
    if isinstance(err, AdapterParseError):
        return ModelFailed("the model's answer did not have the form that was asked for", "try a larger model")
    return err


def _explained_lm_error(err: dspy.LMError) -> ModelFailed:
    if err.model == OFFLINE_MODEL:
        return ModelFailed(err.message, "ask it differently, or with --recipe; `fleet recipes` lists them")
    texts: dict[str | None, tuple[str, str]] = {
        "auth": ("the provider refused the key", "check the provider's key, or `fleet doctor`"),
        "not_configured": ("the model has no key or address", "`fleet doctor` says what is missing"),
        "rate_limit": ("the provider says there were too many requests", "wait and ask again, or lower budget.batch"),
        "billing": ("the provider says the account has no credit", "top it up, or choose another model"),
        "timeout": ("the model did not answer in time", "raise model_seconds, or choose another model"),
        "transport": ("the model's server could not be reached or broke off", "check api_base and the network"),
        "unsupported_model": ("the provider does not know the model", "check the name in FLEET_MODEL"),
        "context_window_exceeded": ("a prompt was longer than the model's window", "choose a model with a larger one"),
        "empty_answer": ("the model answered nothing", "ask again, or raise max_tokens"),
        "server": ("the provider had an error of its own", "ask again in a while"),
    }
    text, hint = texts.get(err.code, (f"the model failed ({type(err).__name__})", "ask again, or choose another model"))
    # The provider's own words may hold what was sent; only its name and status are repeated.
    status = f" (status {err.status})" if err.status else ""
    return ModelFailed(text + status, hint)
