"""docs/reference/magics.md says what the code says. `python tests/unit/kernel/test_reference.py` writes it anew."""

from pathlib import Path

import pytest

from fleet_rlm_jupyter.kernel.arguments import OPTIONS, SUBCOMMANDS, cell_help, line_help, parse

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "magics.md"


def page() -> str:
    lines = [
        "# Magics",
        "Written from the code by `python tests/unit/kernel/test_reference.py`; do not edit.",
        "`%load_ext fleet_rlm_jupyter` brings them. The cell of `%%fleet` is the question, as it stands: nothing "
        "in it is expanded. `%%fleet_rlm` is `%%fleet --mode rlm_only`. An error is one line and the next step.",
        "## `%%fleet`",
    ]
    for option in OPTIONS:
        choices = f" One of {', '.join(f'`{choice}`' for choice in option.choices)}." if option.choices else ""
        lines.append(f"### `{', '.join(option.names)} {option.metavar}`\n\n{option.help}{choices}")
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
        "| `handle.result()`, `await handle` | its Result; an interrupt of the wait cancels the run |\n"
        "| `handle.cancel()`, `handle.status` | stops it; `running`, or how it ended |\n"
        "| `fleet.run(program, **inputs)` | runs a `dspy.Module` of yours in this kernel, on the models, the "
        "budget and the sandboxes of the notebook, with live lines; `limits={'calls': 30}` bounds it |",
        "## Result",
        "`answer, status, usage, tree, trace, error, outputs`; `found` is what there was when there is no answer.",
    ]
    return "\n\n".join(lines) + "\n"


def test_the_page_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/unit/kernel/test_reference.py"


def test_the_help_names_everything():
    for option in OPTIONS:
        assert all(name in cell_help() for name in option.names)
    assert all(f"%fleet {name}" in line_help() for name in SUBCOMMANDS)


def test_a_line_is_read_as_a_shell_would():
    given = parse("--var a --var b -o out --slot 'where=line~\"timed out\"' --calls 3 --set sandbox.memory_mb=512")
    assert (given.variables, given.out, given.limits) == (["a", "b"], "out", {"calls": 3})
    assert given.slots == {"where": 'line~"timed out"'}
    assert given.settings == {"sandbox.memory_mb": "512"}


@pytest.mark.parametrize(
    ("line", "says"),
    [("--moed x", "--mode"), ("--mode x", "choose from"), ("'open", "quotation"), ("word", "cell"),
     ("--var 1x", "name"),     ("--slot x", "NAME=VALUE"), ("--calls many", "int"), ("-o", "expected one argument")],
)  # fmt: skip
def test_a_bad_line_says_what_to_do(line, says):
    with pytest.raises(Exception, match=says):
        parse(line)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
