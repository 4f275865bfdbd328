"""`fleet sandboxes`: those that there are, in a terminal. No model is needed and no sandbox is started."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

import fleet_rlm_jupyter as fleet

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else.")

_LOCAL = ": without DAYTONA_API_KEY they end with the process that has them; in a notebook see %fleet sandboxes"


@click.group(invoke_without_command=True)
@click.pass_context
def sandboxes(context: click.Context) -> None:
    """Sandboxes of yours at Daytona: list, stop, prune. Local ones end with the process that has them."""
    if context.invoked_subcommand is None:
        context.invoke(list_sandboxes, as_json=False)


@sandboxes.command("list")
@_json_option
def list_sandboxes(as_json: bool) -> None:
    """List the sandboxes of your sessions, newest first."""
    with _bench() as bench:
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
@_json_option
def stop_sandbox(sandbox_id: str, as_json: bool) -> None:
    """End a sandbox for good; a run in it fails with `sandbox_lost`. Files on the session's volume stay."""
    with _bench() as bench:
        bench.live_sandboxes.stop(sandbox_id)
    click.echo(json.dumps({"stopped": sandbox_id}) if as_json else f"{sandbox_id} is stopped")


@sandboxes.command("prune")
@_json_option
def prune_sandboxes(as_json: bool) -> None:
    """Delete what processes that are gone left behind at Daytona, as happens by itself every ten minutes of use."""
    with _bench() as bench:
        count = bench.live_sandboxes.prune()
    click.echo(json.dumps({"pruned": count}) if as_json else f"{count} sandbox{'' if count == 1 else 'es'} deleted")


@contextmanager
def _bench() -> Generator[Any]:
    opened = fleet.Workbench(fleet.settings.load())
    try:
        yield opened
    finally:
        opened.close()
