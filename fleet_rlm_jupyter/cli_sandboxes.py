"""`fleet sandboxes`: those that there are, in a terminal. No model is needed and no sandbox is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.cli_parts import json_option, opened_bench

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _size_options(command: _Command) -> _Command:
    for name, what in (("disk", "GB of disk"), ("memory", "GB of memory"), ("cpu", "Cores")):
        command = click.option(f"--{name}", type=click.IntRange(min=1), metavar="N", help=f"{what}.")(command)
    return command


@click.group(invoke_without_command=True)
@click.pass_context
def sandboxes(context: click.Context) -> None:
    """Sandboxes of yours at Daytona, and what they are made of there. Local ones end with the process that has them."""
    if context.invoked_subcommand is None:
        context.invoke(list_sandboxes, as_json=False)


@sandboxes.command("list")
@json_option
def list_sandboxes(as_json: bool) -> None:
    """List the sandboxes of your sessions, newest first."""
    with opened_bench() as bench:
        found = bench.live_sandboxes.list()
        is_remote = bench.settings.daytona.api_key is not None
    if as_json:
        click.echo(json.dumps({"sandboxes": [one.model_dump(mode="json") for one in found]}))
        return
    if not found:
        where = (
            "at Daytona" if is_remote else "here: local ones end with the process that has them, see %fleet sandboxes"
        )
        click.echo(f"no sandbox of yours is {where}", err=True)
    for one in found:
        click.echo(fleet.terminal.clean(fleet.domain.lines.sandbox_line(one)))


@sandboxes.command("stop")
@click.argument("sandbox_id")
@json_option
def stop_sandbox(sandbox_id: str, as_json: bool) -> None:
    """End a sandbox for good; a run in it fails with `sandbox_lost`. Files on the session's volume stay."""
    with opened_bench() as bench:
        bench.live_sandboxes.stop(sandbox_id)
    click.echo(json.dumps({"stopped": sandbox_id}) if as_json else f"{sandbox_id} is stopped")


@sandboxes.command("archive")
@click.argument("sandbox_id")
@json_option
def archive_sandbox(sandbox_id: str, as_json: bool) -> None:
    """Stop a session's sandbox and put it away: its files stay, and the session's next turn restores it."""
    with opened_bench() as bench:
        bench.live_sandboxes.archive(sandbox_id)
    click.echo(json.dumps({"archived": sandbox_id}) if as_json else f"{sandbox_id} is archived")


@sandboxes.command("start")
@click.argument("sandbox_id")
@json_option
def start_sandbox(sandbox_id: str, as_json: bool) -> None:
    """Start one that is stopped or archived, or recover it from an error; it stops again when it is idle."""
    with opened_bench() as bench:
        bench.live_sandboxes.start(sandbox_id)
    click.echo(json.dumps({"started": sandbox_id}) if as_json else f"{sandbox_id} is started")


@sandboxes.command("resize")
@click.argument("sandbox_id")
@_size_options
@json_option
def resize_sandbox(sandbox_id: str, cpu: int | None, memory: int | None, disk: int | None, as_json: bool) -> None:
    """Stop a session's sandbox and give it another size; the session's next turn starts it. Disks only grow."""
    with opened_bench() as bench:
        bench.live_sandboxes.resize(sandbox_id, cpu, memory, disk)
    click.echo(json.dumps({"resized": sandbox_id}) if as_json else f"{sandbox_id} is resized, and stopped")


@sandboxes.command("snapshots")
@json_option
def list_snapshots(as_json: bool) -> None:
    """List what sandboxes can be made of at Daytona (sandbox.snapshot)."""
    with opened_bench() as bench:
        found = bench.sandbox_snapshots.list()
    if as_json:
        click.echo(json.dumps({"snapshots": [one.model_dump(mode="json") for one in found]}))
        return
    for one in found:
        click.echo(fleet.terminal.clean(fleet.domain.lines.snapshot_line(one)))


@sandboxes.command("build")
@click.argument("name")
@click.option("--image", metavar="IMAGE", help="What it begins with; python:3.12-slim where left out.")
@click.option("--package", "packages", metavar="NAME", multiple=True, help="For pip; else numpy, pandas, pyarrow.")
@_size_options
@json_option
def build_snapshot(
    name: str, image: str | None, packages: tuple[str, ...], cpu: int | None, memory: int | None, disk: int | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Build a snapshot for sandboxes at Daytona, which takes minutes; its log goes to stderr."""
    given: dict[str, Any] = {"size": fleet.domain.shown.Size(cpu, memory, disk)}
    given |= {"image": image} if image else {}
    given |= {"packages": packages} if packages else {}

    def tell(text: str) -> None:
        for line in text.splitlines():
            click.echo(fleet.terminal.clean(line), err=True)

    with opened_bench() as bench:
        built = bench.sandbox_snapshots.build(name, **given, on_log=tell)
    if as_json:
        click.echo(built.model_dump_json())
        return
    click.echo(fleet.terminal.clean(fleet.domain.lines.snapshot_line(built)))
    click.echo(f"have sandboxes made of it: set sandbox.snapshot={name}", err=True)


@sandboxes.command("prune")
@json_option
def prune_sandboxes(as_json: bool) -> None:
    """Delete what processes that are gone left behind at Daytona, as happens by itself every ten minutes of use."""
    with opened_bench() as bench:
        count = bench.live_sandboxes.prune()
    click.echo(json.dumps({"pruned": count}) if as_json else f"{count} sandbox{'' if count == 1 else 'es'} deleted")
