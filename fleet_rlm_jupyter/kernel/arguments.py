"""The options of the magics: one table makes the parser, the help, the completion and the reference page."""

from __future__ import annotations

import argparse
import difflib
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import fleet_rlm_jupyter as fleet

Takes = Literal["variable", "new variable", "path", "choice", "recipe", "slot", "setting", "number", "text"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `%%fleet`. `takes` says what completes it."""

    names: tuple[str, ...]
    takes: Takes
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False

    @property
    def name(self) -> str:
        """The name as Python knows it."""
        return self.names[-1].lstrip("-").replace("-", "_")


OPTIONS = (
    Option(("--var",), "variable", "NAME", "A variable of this kernel as context; repeatable.", is_repeatable=True),
    Option(
        ("--context", "--file"), "path", "PATH", "A file, folder or URL as context; repeatable.", is_repeatable=True
    ),
    Option(
        ("--stage",),
        "path",
        "PATH",
        "A file or folder that code in the sandbox opens by its path; repeatable.",
        is_repeatable=True,
    ),
    Option(("--repo",), "text", "URL", "Repository for the sandbox to hold."),
    Option(("--ref",), "text", "REF", "Its branch, tag or commit id; the default branch where left out."),
    Option(("-o", "--out"), "new variable", "NAME", "Where the result goes."),
    Option(("--mode",), "choice", "MODE", "An RLM, a plain call, or by size.", ("auto", "rlm_only", "direct")),
    Option(("--on",), "choice", "PLACE", "Where it runs; the server where one answers.", ("server", "kernel")),
    Option(("--model",), "text", "MODEL", "DSPy model string, e.g. openai/gpt-5; offline/recipes needs no key."),
    Option(("--sub-model",), "text", "MODEL", "Model for sub-queries."),
    Option(("--api-base",), "text", "URL", "URL of an OpenAI-compatible server."),
    Option(("--recipe",), "recipe", "NAME", "Offline recipe to use."),
    Option(("--slot",), "slot", "NAME=VALUE", "A slot of the recipe; repeatable.", is_repeatable=True),
    Option(("--calls",), "number", "N", "Most LM calls of the whole tree."),
    Option(("--sub-calls",), "number", "N", "Most LM calls made by generated code."),
    Option(("--tokens",), "number", "N", "Most tokens, in and out."),
    Option(("--cost",), "number", "DOLLARS", "Most US dollars."),
    Option(("--seconds",), "number", "S", "Most seconds."),
    Option(("--depth",), "number", "N", "Deepest recursion."),
    Option(("--sandboxes",), "number", "N", "Most sandboxes at the same time."),
    Option(("--set",), "setting", "NAME=VALUE", "Any setting, for this question; repeatable.", is_repeatable=True),
)

LIMITS = ("calls", "sub_calls", "tokens", "cost", "seconds", "depth", "sandboxes")
SETTINGS = ("model", "sub_model", "api_base")

SUBCOMMANDS = {
    "status": "Where questions go, model and sandbox there, and what is running.",
    "connect": "Name the Jupyter server: `%fleet connect URL`; without URL: the one that started this kernel, if any.",
    "runs": "The newest runs, those of earlier kernels too: `%fleet runs [WORDS]` searches.",
    "replay": "Show a run again, also of an earlier kernel; the last by default: `%fleet replay [RUN_ID] [--speed N]`.",
    "resume": "Go on with a session of before, the last by default: `%fleet resume [ID | off]`.",
    "export": "Write a session with its turns and runs as JSON, by default this notebook's into SESSION.json: "
    "`%fleet export [SESSION] [PATH.json]`.",
    "memory": "What later questions are told: `%fleet memory [add [KIND:] TEXT | approve ID | reject ID | delete ID]`.",
    "sandboxes": "Your sandboxes, of this kernel and its server: `%fleet sandboxes [stop ID | archive ID | start ID | "
    "resize ID cpu=N memory=N disk=N | prune]`.",
    "doctor": "Say what is configured, from where, whether it works, what to do next; on the server and here.",
    "smoke": "Try one sandbox from its creation to its end, where questions go or `--on` says: "
    "`%fleet smoke [--repo URL] [--ref REF] [--on server|kernel]`.",
    "config": "Settings of this notebook: `%fleet config [NAME [VALUE]]`, `config reset`, `config debug on`.",
    "help": "This help.",
}

SANDBOX_OPTIONS = (
    Option(("--var",), "variable", "NAME", "A variable of this kernel, set in the sandbox; repeatable.", (), True),
    Option(
        ("-o", "--out"),
        "new variable",
        "NAME",
        "A variable of this kernel for what comes out: the value that the cell ends with or submits, else the "
        "sandbox's variable of that name.",
    ),
    Option(("--seconds",), "number", "S", "Most seconds; at most sandbox.cell_seconds."),
)

SMOKE_OPTIONS = tuple(option for option in OPTIONS if option.name in ("repo", "ref", "on"))

CELL_USAGE = "%%fleet [options]\nYOUR QUESTION"
SANDBOX_USAGE = "%%fleet_sandbox [options]\nYOUR PYTHON"
SANDBOX_ABOUT = (
    "The cell is Python of yours, run in the sandbox where this kernel's questions run, with their files: no model is "
    "asked.",
    "Its variables stay for the next such cell, apart from those of the questions. A value comes out as data, never as "
    "code: plain values, arrays, Series and DataFrames.",
    "An interrupt or a timeout stops the cell and keeps its variables, unless the cell does not yield.",
    "It always runs from this kernel, also where questions run on the server; their sandbox and files are others then.",
    "Where no isolation is to be had it runs without, as what you type in a cell does anyway; the output says so.",
)


class _OptionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise fleet.ForUser(message, f"{self.prog}? shows the options")


@dataclass(slots=True)
class CellArguments:
    """What the line of a `%%fleet` cell says."""

    variables: list[str] = field(default_factory=list[str])
    paths: list[str] = field(default_factory=list[str])
    staged: list[str] = field(default_factory=list[str])
    out: str | None = None
    mode: str = "auto"
    on: str = "auto"
    recipe: str | None = None
    repo: str | None = None
    ref: str | None = None
    slots: dict[str, str] = field(default_factory=dict[str, str])
    limits: dict[str, Any] = field(default_factory=dict[str, Any])
    settings: dict[str, str] = field(default_factory=dict[str, str])
    is_help: bool = False


def parse(line: str) -> CellArguments:
    """Raises ForUser for what is no option, with the nearest one."""
    found = _read(line, "%%fleet", OPTIONS)
    settings = dict(_pairs("--set", found.set))
    settings.update({name: getattr(found, name) for name in SETTINGS if getattr(found, name) is not None})
    return CellArguments(
        variables=list(dict.fromkeys(found.var)),
        paths=found.file,
        staged=found.stage,
        out=found.out,
        mode=found.mode or "auto",
        on=found.on or "auto",
        recipe=found.recipe,
        repo=found.repo,
        ref=found.ref,
        slots=dict(_pairs("--slot", found.slot)),
        limits={name: getattr(found, name) for name in LIMITS if getattr(found, name) is not None},
        settings=settings,
        is_help=found.is_help,
    )


@dataclass(frozen=True, slots=True)
class SandboxArguments:
    """What the line of a `%%fleet_sandbox` cell says."""

    variables: list[str]
    out: str | None
    seconds: float | None
    is_help: bool


def parse_sandbox(line: str) -> SandboxArguments:
    """Raises ForUser for what is no option, with the nearest one."""
    found = _read(line, "%%fleet_sandbox", SANDBOX_OPTIONS)
    return SandboxArguments(list(dict.fromkeys(found.var)), found.out, found.seconds, found.is_help)


def parse_smoke(words: list[str]) -> argparse.Namespace:
    """`repo`, `ref` and `on`. Raises ForUser for what is no option."""
    found, rest = _parser("%fleet", SMOKE_OPTIONS).parse_known_args(words)
    if rest:
        names = ", ".join(name for option in SMOKE_OPTIONS for name in option.names)
        raise fleet.ForUser(f"{rest[0]!r} is no option of %fleet smoke", f"it takes {names}")
    return found


def split(line: str) -> list[str]:
    """The words of a magic's line, as a shell would cut them. Raises ForUser for an open quotation mark."""
    try:
        return shlex.split(line)
    except ValueError as err:
        raise fleet.ForUser(f"the line cannot be read: {str(err).lower()}", "close the quotation mark") from err


def cell_help() -> str:
    """What `%%fleet?` shows."""
    about = (
        "Ask a question over contexts of any size: the cell is the question, its answer and recursion tree the output."
    )
    ends = "The result that -o names has answer, status, usage, tree, trace, error, outputs and found."
    return "\n".join([about, *_usage(CELL_USAGE, OPTIONS), "", ends])


def sandbox_help() -> str:
    """What `%%fleet_sandbox?` shows."""
    return "\n".join([*SANDBOX_ABOUT, *_usage(SANDBOX_USAGE, SANDBOX_OPTIONS)])


def line_help() -> str:
    """What `%fleet?` shows."""
    lines = ["Look after what was asked.", ""]
    lines += [f"  %fleet {name:<9} {text}" for name, text in SUBCOMMANDS.items()]
    return "\n".join(lines)


def _usage(usage: str, options: tuple[Option, ...]) -> list[str]:
    lines = ["", *(f"    {line}" for line in usage.splitlines()), "", "options:"]
    for option in options:
        names = ", ".join(option.names)
        choices = f" One of {', '.join(option.choices)}." if option.choices else ""
        lines.append(f"  {names + ' ' + option.metavar:<24} {option.help}{choices}")
    return lines


def _read(line: str, magic: str, options: tuple[Option, ...]) -> argparse.Namespace:
    found, rest = _parser(magic, options).parse_known_args(split(line))
    if rest:
        raise _unknown(rest[0], magic, options)
    for name in [*found.var, *([found.out] if found.out else [])]:
        if not name.isidentifier():
            raise fleet.ForUser(f"{name!r} is no name of a variable", "assign the value to a variable, then name that")
    return found


def _parser(magic: str, options: tuple[Option, ...]) -> argparse.ArgumentParser:
    parser = _OptionParser(prog=magic, add_help=False, allow_abbrev=False)
    kinds = {
        "calls": int,
        "sub_calls": int,
        "tokens": int,
        "depth": int,
        "sandboxes": int,
        "cost": float,
        "seconds": float,
    }
    for option in options:
        if option.is_repeatable:
            parser.add_argument(*option.names, dest=option.name, action="append", default=[])
        else:
            choices = option.choices or None
            parser.add_argument(*option.names, dest=option.name, type=kinds.get(option.name, str), choices=choices)
    parser.add_argument("-h", "--help", dest="is_help", action="store_true")
    return parser


def _pairs(option: str, texts: list[str]) -> list[tuple[str, str]]:
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise fleet.ForUser(
                f"{option} takes NAME=VALUE, not {text!r}", "put quotation marks around the whole of it"
            )
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]


def _unknown(word: str, magic: str, options: tuple[Option, ...]) -> fleet.ForUser:
    if not word.startswith("-"):
        what = "the question" if options is OPTIONS else "the code"
        return fleet.ForUser(f"{word!r} is no option", f"{what} goes into the cell, below the line of {magic}")
    known = [name for option in options for name in option.names]
    near = difflib.get_close_matches(word, known, 1)
    return fleet.ForUser(
        f"there is no option {word}", f"did you mean {near[0]}?" if near else f"{magic}? shows the options"
    )
