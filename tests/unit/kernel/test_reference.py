"""docs/reference/magics.md says what the code says. `python tests/unit/kernel/test_reference.py` writes it anew."""

from pathlib import Path

import pytest

from fleet_rlm_jupyter.kernel.arguments import (
    OPTIONS,
    SANDBOX_ABOUT,
    SANDBOX_OPTIONS,
    SUBCOMMANDS,
    Option,
    cell_help,
    line_help,
    parse,
    parse_sandbox,
    sandbox_help,
)
from fleet_rlm_jupyter.kernel.cells import ends_with_value

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "magics.md"


def page() -> str:
    lines = [
        "# Magics",
        "Written from the code by `python tests/unit/kernel/test_reference.py`; do not edit.",
        "`%load_ext fleet_rlm_jupyter` brings them. The cell of `%%fleet` is the question, as it stands: nothing "
        "in it is expanded. `%%fleet_rlm` is `%%fleet --mode rlm_only`. An error is one line and the next step; `%tb` "
        "then shows the traceback.",
        "## `%%fleet`",
    ]
    lines += [told(option) for option in OPTIONS]
    lines += ["## `%%fleet_sandbox`", *SANDBOX_ABOUT]
    lines += ["Its options:"]
    lines += [f"- `{', '.join(option.names)} {option.metavar}` {option.help}" for option in SANDBOX_OPTIONS]
    lines += ["From Python it is `Workbench().cells()`, with `start, execute, pull, interrupt, close`."]
    lines.append("## `%fleet`")
    lines += [f"### `%fleet {name}`\n\n{text}" for name, text in SUBCOMMANDS.items()]
    lines += [
        "## Variables as contexts",
        "| a variable that is | becomes |\n|---|---|\n"
        "| text, bytes in UTF-8 | that text |\n"
        "| DataFrame alone | a DataFrame in a sandbox that has pandas, else a dict of columns; CSV for recipes and "
        "plain calls |\n| DataFrame among others, Series | CSV; the index only where it says something |\n"
        "| NumPy array | a value a line, a row a line, nested JSON from three dimensions on |\n"
        "| list, tuple, set | a text a line, or a JSON value a line |\n"
        "| dict of texts, tables and paths | texts by name |\n"
        "| any other dict, dataclass, pydantic model | JSON |\n"
        "| path | the file, or the files of the folder by name |",
        "Several `--var` become texts by name. What cannot travel (open files, generators, modules, locks) is refused.",
        "## From Python",
        "| call | does |\n|---|---|\n"
        "| `handle = fleet.start(question, context)` | starts a run and returns at once; options as in `%%fleet` |\n"
        "| `handle.result()`, `await handle` | its Result; an interrupt of the wait, or a cancel of the awaiting "
        "task, cancels the run: `handle.result()` then has what was found |\n"
        "| `handle.cancel()`, `handle.status` | stops it; `running`, or how it ended |\n"
        "| `fleet.run(program, **inputs)` | runs a `dspy.Module` of yours in this kernel, on the models, the "
        "budget and the sandboxes of the notebook, with live lines; a program by its name, as `'ask'`, runs where "
        "questions go; `limits={'calls': 30}` bounds it |",
        "Errors of `fleet.start`, `fleet.run` and any other verb show as those of the magics do.",
        "## Result",
        "`answer, status, usage, tree, trace, error, outputs`; `found` is what there was when there is no answer.",
    ]
    return "\n\n".join(lines) + "\n"


def told(option: Option) -> str:
    choices = f" One of {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
    return f"### `{', '.join(option.names)} {option.metavar}`\n\n{option.help}{choices}"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/unit/kernel/test_reference.py"


def test_the_help_names_everything():
    for option in OPTIONS:
        assert all(name in cell_help() for name in option.names)
    for option in SANDBOX_OPTIONS:
        assert all(name in sandbox_help() for name in option.names)
    assert all(f"%fleet {name}" in line_help() for name in SUBCOMMANDS)


def test_a_line_is_read_as_a_shell_would():
    given = parse("--var a --var b -o out --slot 'where=line~\"timed out\"' --calls 3 --set sandbox.memory_mb=512")
    assert (given.variables, given.out, given.limits) == (["a", "b"], "out", {"calls": 3})
    assert given.slots == {"where": 'line~"timed out"'}
    assert given.settings == {"sandbox.memory_mb": "512"}


def test_a_line_names_a_repository():
    given = parse("--repo https://x.org/y --ref a/b")
    assert (given.repo, given.ref) == ("https://x.org/y", "a/b")


def test_a_line_names_files_to_stage():
    given = parse("--stage data --stage 'my report.csv' --var x")
    assert (given.staged, given.variables) == (["data", "my report.csv"], ["x"])


@pytest.mark.parametrize(
    ("line", "says"),
    [("--moed x", "--mode"), ("--mode x", "choose from"), ("'open", "quotation"), ("word", "cell"),
     ("--var 1x", "name"),     ("--slot x", "NAME=VALUE"), ("--calls many", "int"), ("-o", "expected one argument")],
)  # fmt: skip
def test_a_bad_line_says_what_to_do(line, says):
    with pytest.raises(Exception, match=says):
        parse(line)


def test_the_line_of_a_sandbox_cell_is_read():
    given = parse_sandbox("--var a --var b --var a -o out --seconds 2.5")
    assert (given.variables, given.out, given.seconds) == (["a", "b"], "out", 2.5)
    bare = parse_sandbox("")
    assert (bare.variables, bare.out, bare.seconds, bare.is_help) == ([], None, None, False)
    assert parse_sandbox("--help").is_help


@pytest.mark.parametrize(
    ("line", "says"),
    [("--secnds 2", "did you mean --seconds"), ("--mode direct", "%%fleet_sandbox. shows the options"),
     ("word", "the code goes into the cell"), ("--seconds soon", "float"), ("--var 1x", "name"), ("-o a.b", "name")],
)  # fmt: skip
def test_a_bad_line_of_a_sandbox_cell_says_what_to_do(line, says):
    with pytest.raises(Exception, match=says) as caught:
        parse_sandbox(line)
    assert "question" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "has"),
    [
        ("1", True),
        ("x = 1", False),
        ("x = 1\nx", True),
        ("", False),
        ("# no code", False),
        ("for n in []:\n    n", False),
    ],
)
def test_what_comes_out_is_the_value_of_a_last_expression_if_there_is_one(code, has):
    assert ends_with_value(code) is has


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
