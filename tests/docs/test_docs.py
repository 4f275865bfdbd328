"""The reference pages say what the code says. `python tests/docs/test_docs.py` writes them anew."""

from __future__ import annotations

import inspect
import re
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click
import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from fleet_rlm_jupyter import cli
from fleet_rlm_jupyter.domain import errors, events, previews
from fleet_rlm_jupyter.domain.errors import EndsRun, ErrorText, FleetError, ForModel, ForUser, SandboxError, StoreFailed
from fleet_rlm_jupyter.engine.recipes import RECIPES
from fleet_rlm_jupyter.sandbox.guest_tools import TOOLS
from fleet_rlm_jupyter.settings import ALSO, Settings, describe, variable

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FACTS = get_args(events.KnownFact)
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FleetError)]

GENERATED = "Written from the code by `python tests/docs/test_docs.py`; do not edit."


def settings_page() -> str:
    lines = [
        "# Settings",
        GENERATED,
        "A setting is an argument of `Settings(...)`, `--set NAME=VALUE` on the command line, an environment variable, "
        "or a line of the `.env` in the working folder; the first of these that has it wins. `fleet doctor` says which "
        "did. A variable that begins with `FLEET_` and names no setting is refused.",
    ]
    for name, description in describe().items():
        field = _field(name)
        variables = ", ".join(f"`{known}`" for known in (variable(name), *ALSO.get(name, ())))
        lines += [
            f"### `{name}`",
            f"{_sentence(description)}",
            f"{_setting(field)}. {variables}",
        ]
    lines += [
        "## Keys of providers",
        "Read from the providers' own variables; never shown, never written, never in a sandbox.",
    ]
    lines += [
        f"- `{name}`: " + ", ".join(f"`{known}`" for known in also)
        for name, also in ALSO.items()
        if name.startswith("provider_keys.")
    ]
    return _page(lines)


def events_page() -> str:
    lines = [
        "# Events",
        GENERATED,
        "Everything that leaves a run is one ordered list of facts in the past tense. One event is one line of JSON:",
        "```json\n" + _example() + "\n```",
        "Consumers skip types they do not know. State in a fact is a total, never an increment; only `call.text` "
        f"appends. Previews have at most {previews.PREVIEW_BYTES:,} bytes. NaN and infinities are the texts `NaN`, "
        "`Infinity` and `-Infinity`.",
        "## Envelope",
        *_fields(events.Event, leave_out="fact"),
        "- `type`, `data`: the fact, one of those below",
    ]
    for fact in FACTS:
        lines += [f"### `{_type(fact)}`", _docstring(fact), *_fields(fact, leave_out="type")]
    lines += ["## Parts"]
    for part in (events.Limits, events.Usage, events.Trial, events.ChildIsolation, events.Lease, ErrorText):
        lines += [f"### {part.__name__}", _docstring(part), *_fields(part)]
    return _page(lines)


FAMILIES = {
    ForModel: "The model reads it as an observation and may adapt; the run goes on.",
    EndsRun: "Ends the run, whatever generated code does with it.",
    ForUser: "The caller must change something; mostly said before any work.",
    SandboxError: "Something about the machine under the code.",
    StoreFailed: "Something about what is kept.",
    FleetError: "",
}


def errors_page() -> str:
    lines = [
        "# Errors",
        GENERATED,
        "An error has a stable `code`, a `text` that says what is wrong and a `hint` that says what to do. Compare "
        "codes; texts may change. An error that is none of ours has the code `internal`.",
        "What failed in a sandbox's life has a `phase` as well, in events, problem documents and `fleet smoke`: "
        + ", ".join(f"`{phase}`" for phase in get_args(errors.SandboxPhase) if phase)
        + ". Where the error came by way of several, it is the narrowest; elsewhere, and where it is not known, it is "
        "empty or left out.",
    ]
    for kind in ERRORS:
        family = next(family for family in FAMILIES if issubclass(kind, family))
        lines += [f"### `{kind.code}`", f"`{kind.__name__}`: {_docstring(kind)}"]
        if kind is not family and FAMILIES[family]:
            lines += [f"{FAMILIES[family]} (`{family.__name__}`)"]
    return _page(lines)


def recipes_page() -> str:
    lines = [
        "# Offline recipes",
        GENERATED,
        "With no model, key or local server the answers come from recipes: deterministic code that drives the "
        "real loop, sandbox and sub-calls, and no language model. A question becomes a recipe with slots only "
        "when every word of it is accounted for; otherwise the answer is `not understood: pick a recipe`. The "
        "answer shows recipe, slots and the lines it rests on. A slot can be corrected and the question asked "
        "again: `fleet ask --recipe NAME --slot NAME=VALUE`, `%%fleet --recipe NAME --slot NAME=VALUE`, or "
        "`recipe=` and `slots=` of `fleet.start`.",
    ]
    for recipe in RECIPES.values():
        lines += [f"### `{recipe.name}`", f"{_sentence(recipe.description)}"]
        lines += [
            f"- `{slot.name}`{' (needed)' if slot.is_required else ''}: {slot.description}"
            + (f"; one of {', '.join(f'`{choice}`' for choice in slot.choices)}" if slot.choices else "")
            for slot in recipe.slots
        ]
        lines += [f"For example: {recipe.example}"]
    lines += [
        "## Conditions",
        "`where` holds conditions joined by `and`: `field=value|other`, `!=`, `>`, `>=`, `<`, `<=`; `~` for a part of "
        "the value as it stands, `*=` for a part in any case, `^=` and `$=` for its beginning and end; `field=*` and "
        "`field!=*` for a field that has a value or none. A name or value with other signs stands in double quotes. "
        "A condition on a list of a JSON line holds when it holds for an item; `field.count` is the list's length.",
        "## How well questions are understood",
        "Ninety questions were written over real logs, settings, CSV, JSON lines, prose and Python sources by somebody "
        "who had seen neither code nor tests, and are held by hashes; 33 of them no program can answer. The first "
        "rules got 1 right and 2 wrong. **The rules were widened after the questions had been written:** whoever "
        "widened them read every third question (the rows *read*), wrote others in the same manner, and never read "
        "the rest (the rows *unread*), so only those say how a new question fares. `make bench` asks them all again.",
        "| questions | right | abstained | wrong |",
        "|---|---|---|---|",
    ]
    rows = [line.split("\t") for line in (ROOT / "tests" / "data" / "outcomes.tsv").read_text("utf-8").splitlines()[2:]]
    for name, place in (("read", 2), ("unread", 2), *((kind, 1) for kind in sorted({row[1] for row in rows}))):
        counts = Counter(row[3] for row in rows if row[place] == name)
        lines += [f"| {name} | {counts['right']} | {counts['abstained']} | {counts['wrong']} |"]
    return _page(lines)


def commands_page() -> str:
    lines = [
        "# Commands",
        GENERATED,
        "Exit code: 0 done, 1 failed, 2 bad input, 3 over budget, 4 abstained, 130 cancelled. An error is one sentence "
        "and the next step, on stderr; `--debug` shows the traceback.",
    ]
    for name, command in _commands(cli.app, "fleet"):
        given = [item for item in command.params if isinstance(item, click.Argument)]
        named = [item.make_metavar(click.Context(command)) for item in given]
        lines += [f"### `{name}`", inspect.cleandoc(command.help or "")]
        lines += ["`" + " ".join([name, *named]) + "`"]
        for option in command.params:
            if isinstance(option, click.Option):
                flags = ", ".join(f"`{flag}`" for flag in option.opts)
                lines += [f"- {flags}: {option.help}"]
    return _page(lines)


def _commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {command.name}")
        else:
            yield f"{name} {command.name}", command


def functions_page() -> str:
    lines = [
        "# Functions in a sandbox",
        GENERATED,
        "Code in a sandbox, be it a model's or that of a `%%fleet_sandbox` cell, has these functions from the start, "
        "as it has Python's own. What you define, an input or a tool of the same name wins; `del` of yours brings ours "
        "back. "
        "They need nothing but Python, are bounded in what they return, and print a line where something was left out. "
        "An error is one sentence with the next step.",
        "`REPO_PATH` is the folder of the repository that was last asked about (`--repo`), else the working folder, "
        "and `MEMORY_ROOT` the one that has the four folders below.",
        "A process that `start_process` starts goes on when the cell, and the turn, has ended, until it is stopped or "
        "the sandbox ends; later turns of the session find it by its number.",
        "A model that answers a question is told of them, and so are children of `sub_rlm`, which have them in their "
        "own sandboxes, with copies of the files that they are given; documents and the user's project [need a "
        "setting](../how-to/delegate.md). DSPy programs of your own have them and are not "
        "told. `UnisolatedSandboxes` of `fleet_rlm_jupyter.testing` does not have them.",
        "Files below `memory/`, `artifacts/`, `buffers/` and `meta/` are on the volume of the session and outlive the "
        "sandbox; without a volume they end with it, and what is returned says so. A file there is written once and "
        "whole, and a buffer is a folder with a file for each text, since an object store knows no append. Paths do "
        "not leave these folders, and links are not followed.",
    ]
    for tool in TOOLS:
        shown = re.sub(r"'(\w[^']*)'", r"\1", str(inspect.signature(tool)))
        lines += [f"### `{tool.__name__}`", inspect.cleandoc(tool.__doc__ or ""), f"`{tool.__name__}{shown}`"]
    return _page(lines)


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands_page,
    "settings": settings_page,
    "events": events_page,
    "errors": errors_page,
    "recipes": recipes_page,
    "sandbox-functions": functions_page,
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name):
    path = DOCS / "reference" / f"{name}.md"
    assert path.read_text(encoding="utf-8") == PAGES[name](), "run: python tests/docs/test_docs.py"


@pytest.mark.parametrize(
    ("page", "name"),
    [("settings", name) for name in Settings.names()]
    + [("events", fact.model_fields["type"].default) for fact in FACTS]
    + [("errors", kind.code) for kind in ERRORS]
    + [("commands", name) for name, _ in _commands(cli.app, "fleet")]
    + [("recipes", name) for name in RECIPES]
    + [("sandbox-functions", tool.__name__) for tool in TOOLS],
)
def test_everything_has_an_entry(page, name):
    assert f"### `{name}`\n" in (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_every_field_of_an_event_is_on_its_page(fact):
    page = (DOCS / "reference" / "events.md").read_text(encoding="utf-8")
    entry = page.split(f"### `{_type(fact)}`\n")[1].split("\n#")[0]
    for name in fact.model_fields.keys() - {"type"}:
        assert f"- `{name}`: " in entry


MARKDOWN = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "tests").rglob("*.md")]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_page_is_in_the_table_of_contents():
    listed = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)]+)\)", (DOCS / "README.md").read_text("utf-8"))}
    pages = {path for path in DOCS.glob("*/*.md") if path.parent.name != "adr"}
    assert pages <= listed


def test_every_module_that_the_architecture_names_exists():
    page = (DOCS / "explanation" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(\w+)/` \| (.+) \|$", page)
    assert {folder for folder, _ in rows} >= {"domain", "engine", "sandbox", "localdaytona"}
    named = [f"{folder}/{name}" for folder, row in rows for name in re.findall(r"`(\w+\.py)`", row)]
    missing = [name for name in named if not (ROOT / "fleet_rlm_jupyter" / name).exists()]
    assert not missing
    assert len(page.splitlines()) <= 200


ADRS = sorted((DOCS / "adr").glob("*.md"))


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_a_decision_has_its_four_parts_on_half_a_page(path):
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# {int(path.stem[:4])}\. .+        accepted \d{{4}}-\d\d-\d\d\n", text)
    assert re.findall(r"^\*\*(.+?)\*\*", text, re.M) == ["Context:", "Decision:", "Instead of:", "Cost:"]
    assert len(text.splitlines()) <= 30


def test_decisions_are_numbered_without_gaps():
    assert [int(path.stem[:4]) for path in ADRS] == list(range(1, len(ADRS) + 1))


def test_every_decision_that_the_code_cites_exists():
    cited = {
        number
        for path in [*(ROOT / "fleet_rlm_jupyter").rglob("*.py"), *MARKDOWN]
        for number in re.findall(r"docs/adr/(\d{4})", path.read_text(encoding="utf-8"))
    }
    assert cited <= {path.stem[:4] for path in ADRS}


def _page(lines: list[str]) -> str:
    """Paragraphs, a blank line between them but not between two entries of a list or rows of a table."""
    text = "\n\n".join(lines) + "\n"
    return re.sub(r"(?m)(^- .*)\n\n(?=- )|(^\|.*)\n\n(?=\|)", lambda found: f"{found[1] or found[2]}\n", text)


def _field(name: str) -> FieldInfo:
    model: Any = Settings
    *groups, last = name.split(".")
    for group in groups:
        model = model.model_fields[group].annotation
    return model.model_fields[last]


def _fields(model: type[BaseModel], leave_out: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name == leave_out:
            continue
        default = "" if field.is_required() else ", may be left out" if _is_empty(field) else f", {_default(field)}"
        meaning = f"; {field.description}" if field.description else ""
        yield f"- `{name}`: {_kind(field.annotation)}{default}{meaning}"


def _kind(kind: Any) -> str:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in inside)
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in inside)
    if origin is dict:
        return f"object of {_kind(inside[1])}"
    if origin in (list, tuple):
        return f"list of {_kind(inside[0])}"
    if hasattr(kind, "__metadata__"):
        return _kind(inside[0])
    names: dict[Any, str] = {
        str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "key", type(None): "null",
    }  # fmt: skip
    return names.get(kind) or ("any JSON" if kind.__class__.__name__ == "TypeAliasType" else kind.__name__)


def _setting(field: FieldInfo) -> str:
    """Its type, what it may be and what it is by default."""
    bounds = {"gt": "greater than", "ge": "at least", "le": "at most"}
    words = [
        f"{word} {getattr(bound, sign):,}"
        for bound in field.metadata
        for sign, word in bounds.items()
        if hasattr(bound, sign)
    ]
    default = "unset by default" if _is_empty(field) else _default(field)
    return ", ".join([_kind(field.annotation).removesuffix(" or null"), *words, default])


def _is_empty(field: FieldInfo) -> bool:
    return field.get_default(call_default_factory=True) in (None, "", [], {}, ())


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return f"default `{str(value).lower() if isinstance(value, bool) else value}`"


def _type(fact: Any) -> str:
    return fact.model_fields["type"].default


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _docstring(kind: type) -> str:
    return re.sub(r"\s+", " ", inspect.cleandoc(kind.__doc__ or ""))


def _example() -> str:
    fact = events.CallText(channel="stdout", text="412\n")
    return events.Event(seq=7, at=1795478401.5, session_id="s-4f1c", run_id="r-01aa", call_id="c3", fact=fact).encode()


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / "reference" / f"{name}.md").write_text(page(), encoding="utf-8")
