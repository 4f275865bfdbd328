"""Tab completion for the magics: options, their choices, variables of the kernel, recipes and slots, settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.kernel.arguments import OPTIONS, SANDBOX_OPTIONS, SMOKE_OPTIONS, SUBCOMMANDS, Option

_CELLS = ("%%fleet_rlm", "%%fleet_sandbox", "%%fleet")


def matcher(user_ns: Mapping[str, object]) -> Any:
    """A matcher for IPython's completer that knows the variables of `user_ns`."""

    @context_matcher()
    def fleet_matcher(context: CompletionContext) -> dict[str, Any]:
        line, word = _line_and_word(context)
        found = list(candidates(line, word, user_ns)) if line is not None else []
        completions = [SimpleCompletion(text=text, type=kind) for text, kind in found if text.startswith(word)]
        return {"completions": completions, "matched_fragment": word, "suppress": bool(completions), "ordered": True}

    return fleet_matcher


def candidates(line: str, word: str, user_ns: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """(text, kind) of what may stand where `word` begins, after `line`; not yet narrowed by `word`."""
    words = line.split()
    if words and words[0] == "%fleet":
        return _of_line_magic(words[1:])
    before = words[-1] if words else ""
    options = SANDBOX_OPTIONS if words[:1] == ["%%fleet_sandbox"] else OPTIONS
    option = next((option for option in options if before in option.names), None)
    if option is not None:
        return _of_option(option, words, user_ns)
    return [(name, "option") for option in options for name in option.names] + [("--help", "option")]


def _line_and_word(context: CompletionContext) -> tuple[str | None, str]:
    """The magic's line up to the word at the cursor, and that word; (None, "") outside our magics."""
    lines = context.full_text.splitlines() or [""]
    line = lines[context.cursor_line] if context.cursor_line < len(lines) else ""
    until = line[: context.cursor_position]
    begins = until.lstrip()
    is_ours = begins.startswith(tuple(f"{name} " for name in (*_CELLS, "%fleet")))
    if not is_ours or (begins.startswith("%%") and any(before.strip() for before in lines[: context.cursor_line])):
        return None, ""
    word = "" if until.endswith(" ") else until.split()[-1]
    return begins[: len(begins) - len(word)], word


def _of_line_magic(words: list[str]) -> Iterable[tuple[str, str]]:
    if not words:
        return [(name, "magic") for name in SUBCOMMANDS]
    if words == ["replay"]:
        return [*((handle.run_id, "run") for handle in reversed(_notebook().handles)), ("--speed", "option")]
    if words == ["sandboxes"]:
        return [(name, "magic") for name in ("list", "stop", "archive", "start", "resize", "prune")]
    if words == ["memory"]:
        return [(name, "magic") for name in ("list", "add", "approve", "reject", "delete")]
    if words[0] == "smoke":
        chosen = [choice for option in SMOKE_OPTIONS if words[-1] in option.names for choice in option.choices]
        return [(name, "value") for name in chosen] or [
            (name, "option") for option in SMOKE_OPTIONS for name in option.names if name not in words
        ]
    if words == ["config"]:
        return [*((name, "setting") for name in fleet.Settings.names()), ("reset", "magic"), ("debug", "magic")]
    return [("on", "magic"), ("off", "magic")] if words == ["config", "debug"] else []


def _of_option(option: Option, words: list[str], user_ns: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    if option.takes in ("variable", "new variable"):
        given = set(words)
        return [(name, "instance") for name in sorted(user_ns) if _is_data(name, user_ns[name]) and name not in given]
    if option.takes == "choice":
        return [(choice, "value") for choice in option.choices]
    if option.takes == "recipe":
        return [(name, "value") for name in fleet.RECIPES]
    if option.takes == "slot":
        named = [words[place + 1] for place, word in enumerate(words[:-1]) if word == "--recipe"]
        recipes = [fleet.RECIPES[name] for name in named if name in fleet.RECIPES] or list(fleet.RECIPES.values())
        return [
            (name, "value") for name in dict.fromkeys(f"{slot.name}=" for recipe in recipes for slot in recipe.slots)
        ]
    if option.takes == "setting":
        return [(f"{name}=", "setting") for name in fleet.Settings.names()]
    return []


def _is_data(name: str, value: object) -> bool:
    """Worth offering: no history of IPython's, no module, no function."""
    hidden = name.startswith("_") or name in ("In", "Out", "exit", "quit", "get_ipython", "open")
    return not hidden and not callable(value) and type(value).__name__ != "module"


def _notebook() -> Any:
    return fleet.kernel.handles.notebook()
