"""`fleet programs` and `fleet datasets`: what is run by its name and what it is tried on, in a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.cli_parts import json_option, opened_bench, print_json

split_option = click.option("--split", type=click.Choice(["train", "val", "test"]), help="Only rows of this split.")


@click.group()
def programs() -> None:
    """Programs that run by their name: list, show, save, approve."""


@programs.command("list")
@json_option
def list_programs(as_json: bool) -> None:
    """List the programs, each in the version that runs by its name."""
    with opened_bench() as bench:
        show_programs(bench.programs.list(), as_json)


@programs.command("show")
@click.argument("name")
@json_option
def show_program(name: str, as_json: bool) -> None:
    """Show the versions of a program and their scores; of NAME@VERSION its state, as DSPy's JSON."""
    with opened_bench() as bench:
        if "@" in name:
            print_json(bench.programs.definition(name).model_dump())
        else:
            show_programs(bench.programs.versions(name), as_json)


@programs.command("save")
@click.argument("name")
@click.argument("signature")
@click.option(
    "--kind",
    type=click.Choice(["predict", "chain_of_thought", "rlm"]),
    default="predict",
    show_default=True,
    help="What DSPy makes of it.",
)
@click.option("--instructions", default="", help="The task in words.")
@click.option("--state", type=click.Path(dir_okay=False, exists=True), help="File of DSPy's module.save, as JSON.")
def save_program(name: str, signature: str, kind: str, instructions: str, state: str | None) -> None:
    """Keep a new version of program NAME with a SIGNATURE such as "context, question -> answer: int".

    The first version runs by its name at once, every other when it is approved.
    """
    try:
        kept = json.loads(Path(state).read_bytes()) if state else {}
    except ValueError as err:
        raise fleet.BadRequest(f"{state} is no JSON", "write it with module.save") from err
    if not isinstance(kept, dict):
        raise fleet.BadRequest(f"{state} holds no object", "write it with module.save")
    kept.pop("metadata", None)
    with opened_bench() as bench:
        made = fleet.domain.program.Definition(kind=kind, signature=signature, instructions=instructions, state=kept)
        show_programs([bench.programs.save(name, made)])


@programs.command("approve")
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
def approve_program(name: str, version: int) -> None:
    """Run VERSION when NAME is run; an earlier one may be approved again."""
    with opened_bench() as bench:
        show_programs([bench.programs.approve(name, version)])


@click.group()
def datasets() -> None:
    """Datasets that programs are evaluated and optimized on: create, list, show, delete."""


@datasets.command("list")
@json_option
def list_datasets(as_json: bool) -> None:
    """List the datasets with their rows by split."""
    with opened_bench() as bench:
        found = bench.datasets.list()
    if as_json:
        print_json({"datasets": [one.model_dump(mode="json") for one in found]})
        return
    if not found:
        click.echo("there is no dataset; make one with `fleet datasets create`", err=True)
    for one in found:
        click.echo(_in_a_line(one))


@datasets.command("create")
@click.argument("name")
@click.argument("path", type=click.Path(dir_okay=False, exists=True), required=False)
@click.option("--session", "session_id", help="Make it of this session's turns that got feedback.")
@click.option("--snapshots", is_flag=True, help="Make it of the snapshots whose turns got feedback.")
def create_dataset(name: str, path: str | None, session_id: str | None, snapshots: bool) -> None:
    """Keep the rows of PATH as dataset NAME: a JSON array of objects, or one JSON object a line.

    A field "split" says which split a row is for; else that follows from what is in it.
    """
    if [path is not None, session_id is not None, snapshots].count(True) != 1:
        raise click.UsageError("give either PATH or --session or --snapshots")
    with opened_bench() as bench:
        if snapshots:
            made = bench.datasets.from_snapshots(name)
        elif path is None:
            made = bench.datasets.from_session(name, session_id)
        else:
            made = bench.datasets.create(name, Path(path).read_bytes(), Path(path).name)
    click.echo(_in_a_line(made))
    for line in made.left_out:
        click.echo(f"left out: row {fleet.terminal.clean(line)}", err=True)


@datasets.command("show")
@click.argument("name")
@split_option
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="Most rows.")
def show_dataset(name: str, split: str | None, count: int) -> None:
    """Print some rows of a dataset as JSON, one a line; always the same ones."""
    with opened_bench() as bench:
        for row in bench.datasets.sample(name, count, split):
            click.echo(json.dumps({"split": row.split, "origin": row.origin, **row.fields}, ensure_ascii=False))


@datasets.command("delete")
@click.argument("name")
def delete_dataset(name: str) -> None:
    """Forget a dataset and its rows."""
    with opened_bench() as bench:
        bench.datasets.delete(name)
    click.echo(f"{name} forgotten")


def show_programs(found: list[Any], as_json: bool = False) -> None:
    if as_json:
        print_json({"programs": [one.model_dump(mode="json") for one in found]})
        return
    for one in found:
        name = f"{one.name}@{one.version}" if one.version else one.name
        scores = "".join(f"  {split} {score:.3f}" for split, score in one.scores.items())
        made = f"  from @{one.parent}" if one.parent else ""
        approved = "" if one.is_approved else "  not approved"
        click.echo(fleet.terminal.clean(f"{name}  {one.description}{scores}{made}{approved}"))


def _in_a_line(one: Any) -> str:
    splits = ", ".join(f"{one.splits.get(split, 0)} {split}" for split in ("train", "val", "test"))
    return fleet.terminal.clean(f"{one.name}  {one.rows} rows ({splits})  {', '.join(one.fields)}")
