"""`fleet memory`: what later questions are told, reviewed in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.cli_parts import json_option, opened_bench, print_json

_ids = click.argument("memory_ids", metavar="MEMORY_ID...", nargs=-1, required=True)


@click.group()
def memory() -> None:
    """What later questions are told: list, add, approve, reject, delete."""


@memory.command("list")
@click.option("--state", type=click.Choice(["proposed", "approved", "rejected"]), help="Only those.")
@click.option("--session", "session_id", help="Only those that hold in this session.")
@json_option
def list_memory(state: str | None, session_id: str | None, as_json: bool) -> None:
    """List what is remembered, was proposed for that by a run, or was rejected; the newest first."""
    with opened_bench() as bench:
        found = bench.memory.list(state, session_id)
    if as_json:
        print_json({"items": [item.model_dump(mode="json") for item in found]})
        return
    for item in found:
        _print(item)
    if not found:
        click.echo("nothing is there that fits; `fleet memory add` remembers a sentence", err=True)


@memory.command("add")
@click.argument("text")
@click.option(
    "--kind", type=click.Choice(["note", "fact", "preference"]), default="note", show_default=True, help="What it is."
)
@click.option("--session", "session_id", help="The session where it holds; all of them where left out.")
def add_memory(text: str, kind: str, session_id: str | None) -> None:
    """Remember TEXT: it is approved with that, and later questions are told of it."""
    with opened_bench() as bench:
        _print(bench.memory.add(text, kind, session_id))


@memory.command("approve")
@_ids
def approve_memory(memory_ids: tuple[str, ...]) -> None:
    """Have later questions told of these. MEMORY_ID may be the beginning of one."""
    _each(memory_ids, lambda kept, memory_id: _print(kept.approve(memory_id)))


@memory.command("reject")
@_ids
def reject_memory(memory_ids: tuple[str, ...]) -> None:
    """Have no question told of these, nor proposed again. MEMORY_ID may be the beginning of one."""
    _each(memory_ids, lambda kept, memory_id: _print(kept.reject(memory_id)))


@memory.command("delete")
@_ids
def delete_memory(memory_ids: tuple[str, ...]) -> None:
    """Forget these. MEMORY_ID may be the beginning of one."""

    def forget(kept: Any, memory_id: str) -> None:
        kept.delete(memory_id)
        click.echo(f"{memory_id} forgotten")

    _each(memory_ids, forget)


def _each(prefixes: tuple[str, ...], work: Callable[[Any, str], None]) -> None:
    with opened_bench() as bench:
        items = bench.memory.list()
        for item in [fleet.domain.memory.the_one(items, prefix) for prefix in prefixes]:
            work(bench.memory, item.memory_id)


def _print(item: Any) -> None:
    click.echo(fleet.terminal.clean(fleet.domain.lines.memory_line(item)))
