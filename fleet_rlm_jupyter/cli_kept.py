"""`fleet runs`, `fleet replay` and `fleet sessions`: what is kept, in a terminal. They need no model and no sandbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.cli_parts import json_option, print_json

OWNER = "local"
DAY_SECONDS = 86_400
LONGEST_PAUSE_SECONDS = 5.0

_limit_option = click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Most lines.")
_out_option = click.option("--output", "-o", type=click.Path(dir_okay=False), help="File to write; stdout otherwise.")
_days_option = click.option(
    "--days", type=click.FloatRange(0), required=True, help="Forget what is older than so many days."
)


@click.group()
def runs() -> None:
    """Runs that are kept: list, search, show, export, prune."""


@runs.command("list")
@click.option("--search", default="", help="Only those with this in their question or id.")
@click.option("--session", "session_id", help="Only those of this session.")
@_limit_option
@json_option
def list_runs(search: str, session_id: str | None, limit: int, as_json: bool) -> None:
    """List the newest runs."""
    with _store() as store:
        found = store.runs(OWNER).list(search, session_id, limit)
    if as_json:
        print_json({"runs": [run.model_dump(mode="json") for run in found]})
        return
    rows = [(run.run_id, run.started_at, run.status or "running", run.question) for run in found]
    print_rows(rows, "nothing is kept that fits; ask with `fleet ask`")


@runs.command("show")
@click.argument("run_id")
@json_option
def show_run(run_id: str, as_json: bool) -> None:
    """Show how a run ended: answer, recursion tree and what it spent. RUN_ID may be the beginning of one."""
    with _store() as store:
        kept = store.runs(OWNER)
        run_id = kept.find(run_id).run_id
        turn = kept.turn(run_id)
        if turn is None:
            raise fleet.ForUser(f"run {run_id} is still going on", "`fleet replay` shows what there is")
        terminal = fleet.terminal
        tree = fleet.domain.calls.fold(kept.events(run_id))
        if as_json:
            print_json(terminal.as_json(turn.run, tree))
        else:
            terminal.print_run(turn.run, tree)


@runs.command("export")
@click.argument("run_id")
@_out_option
def export_run(run_id: str, output: str | None) -> None:
    """Write the events of a run as JSON, one a line."""
    with _store() as store:
        kept = store.runs(OWNER)
        _write(output, (f"{line}\n" for line in kept.lines(kept.find(run_id).run_id)))


@runs.command("prune")
@_days_option
def prune_runs(days: float) -> None:
    """Forget the runs that ended so many days ago, with the turns they answered."""
    with _store() as store:
        count = store.runs(OWNER).prune(time.time() - days * DAY_SECONDS)
    click.echo(f"{count} run{'' if count == 1 else 's'} forgotten")


@click.command()
@click.argument("run_id")
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), help="1 is as fast as it was, 10 ten times that; else at once."
)
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON, one a line.")
def replay(run_id: str, speed: float | None, as_json: bool) -> None:
    """Show a run again, as it went. RUN_ID may be the beginning of one.

    It is read as it is shown: a run may be bigger than memory.
    """
    with _store() as store:
        kept = store.runs(OWNER)
        run = kept.find(run_id)
        for event in _paced(kept.events(run.run_id), speed):
            line = event.encode() if as_json else fleet.terminal.progress_line(event)
            if line is not None:
                click.echo(line if as_json else fleet.terminal.clean(line))
        turn = kept.turn(run.run_id)
    if as_json:
        return
    if turn is None:
        click.echo(f"run {run.run_id} is still going on", err=True)
        return
    fleet.terminal.print_end(turn.run)


_SANDBOX_TOLD = {
    "ended": "its sandbox was ended",
    "none": "it had no sandbox",
    "left": "its sandbox could not be reached and ends when it is idle",
}


@click.group()
def sessions() -> None:
    """Sessions that are kept: list, show, resume, export, import, delete, prune."""


@sessions.command("list")
@click.option("--search", default="", help="Only those with this in their title.")
@click.option("--archived", "is_archived", is_flag=True, help="Those that were archived.")
@_limit_option
@json_option
def list_sessions(search: str, is_archived: bool, limit: int, as_json: bool) -> None:
    """List the sessions that were last used."""
    with _store() as store:
        found, _ = store.sessions(OWNER).list(search, is_archived, limit)
    if as_json:
        print_json({"sessions": [session.model_dump(mode="json") for session in found]})
        return
    rows = [(one.session_id, one.updated_at, _turns(one.turns), one.title) for one in found]
    print_rows(rows, "no session is kept that fits")


@sessions.command("show")
@click.argument("session_id")
@json_option
def show_session(session_id: str, as_json: bool) -> None:
    """Show the turns of a session, and what they cost. SESSION_ID may be the beginning of one."""
    with _store() as store:
        kept = store.sessions(OWNER)
        session_id = kept.find(session_id).session_id
        session, stats = kept.session(session_id), kept.stats(session_id)
    if as_json:
        print_json({**session.model_dump(mode="json"), "stats": stats.model_dump(mode="json")})
        return
    click.echo(f"{session.session_id}  {_line(session.title)}")
    for turn in session.turns:
        click.echo(f"\n> {_line(turn.message)}\n{fleet.terminal.clean(turn.run.answer or '')}".rstrip())
        click.echo(f"  {turn.run.status} · {turn.run.usage.calls} LM calls · {turn.run.run_id}")
    ended = ", ".join(f"{count} {status}" for status, count in stats.by_status.items())
    cost = "unknown" if stats.usage.cost is None else f"${stats.usage.cost:.4f}"
    click.echo(f"\n{stats.turns} turns ({ended or 'none'}) · {stats.usage.calls} LM calls · cost {cost}")


@sessions.command("resume")
@click.argument("session_id")
@json_option
def resume_session(session_id: str, as_json: bool) -> None:
    """Say what there is of a session after a restart; `fleet ask --session` goes on with it.

    SESSION_ID may be the beginning of one. By its whole id comes back what only a volume knows, without its turns.
    """
    with _store() as store, suppress(fleet.domain.errors.NoSuchSession):  # its volume may know it
        session_id = store.sessions(OWNER).find(session_id).session_id
    bench = fleet.Workbench()
    try:
        found = bench.resume(session_id)
    finally:
        bench.close()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in fleet.domain.lines.resumed_lines(found):
        click.echo(fleet.terminal.clean(line))


@sessions.command("export")
@click.argument("session_id")
@_out_option
def export_session(session_id: str, output: str | None) -> None:
    """Write a session with its turns and their runs as one JSON object."""
    with _store() as store:
        found = store.sessions(OWNER).find(session_id).session_id
        text = fleet.store.exports.export_session(store.database(), OWNER, found)
    _write(output, [text, "\n"])


@sessions.command("import")
@click.argument("path", type=click.Path(dir_okay=False, exists=True))
def import_session(path: str) -> None:
    """Keep a session that `fleet sessions export` wrote, under new ids."""
    with _store() as store:
        made = fleet.store.exports.import_session(store.database(), OWNER, Path(path).read_bytes())
    click.echo(made.session_id)


@sessions.command("delete")
@click.argument("session_id")
@json_option
def delete_session(session_id: str, as_json: bool) -> None:
    """Forget a session with all its runs and end its sandbox; what it wrote to the volume stays.

    SESSION_ID may be the beginning of one.
    """
    bench = fleet.Workbench(fleet.settings.load())
    try:
        with _store() as store:
            session_id = store.sessions(OWNER).find(session_id).session_id
        gone = bench.sessions.delete(session_id)
    finally:
        bench.close()
    if as_json:
        print_json(gone.model_dump(mode="json"))
        return
    stays = f"; its files stay on the volume {gone.volume} in {gone.folder}" if gone.volume else ""
    click.echo(f"{session_id} forgotten; {_SANDBOX_TOLD[gone.sandbox]}{stays}")


@sessions.command("prune")
@_days_option
def prune_sessions(days: float) -> None:
    """Forget the sessions last used so many days ago, with all their runs; what they wrote to the volume stays."""
    bench = fleet.Workbench(fleet.settings.load())
    try:
        count = bench.sessions.prune(time.time() - days * DAY_SECONDS)
    finally:
        bench.close()
    click.echo(f"{count} session{'' if count == 1 else 's'} forgotten")


@click.group()
def snapshots() -> None:
    """What questions were asked and told, kept by `fleet ask --snapshot`: list, show, delete."""


@snapshots.command("list")
@json_option
def list_snapshots(as_json: bool) -> None:
    """List the snapshots, the newest first; `fleet repeat` asks one again."""
    with _store() as store:
        found = store.snapshots(OWNER).list()
    if as_json:
        print_json({"snapshots": [one.model_dump(mode="json") for one in found]})
        return
    rows = [(one.run_id, one.created_at, f"{one.context.bytes:,} B", one.question) for one in found]
    print_rows(rows, "no snapshot is kept; `fleet ask --snapshot` keeps one")


@snapshots.command("show")
@click.argument("run_id")
def show_snapshot(run_id: str) -> None:
    """Print what a run was asked and told, as JSON."""
    with _store() as store:
        print_json(store.snapshots(OWNER).get(run_id).model_dump(mode="json"))


@snapshots.command("delete")
@click.argument("run_id")
def delete_snapshot(run_id: str) -> None:
    """Forget a snapshot; its run and its context are then forgotten as all others are."""
    with _store() as store:
        store.snapshots(OWNER).delete(run_id)
    click.echo(f"{run_id} forgotten")


@contextmanager
def _store() -> Generator[Any]:
    opened = fleet.store.store.Store(fleet.settings.load().settings.store)
    try:
        yield opened
    finally:
        opened.close()


def _paced(events: Iterable[Any], speed: float | None, sleep: Callable[[float], None] = time.sleep) -> Iterator[Any]:
    at: float | None = None
    for event in events:
        if speed is not None and at is not None:
            sleep(max(0.0, min((event.at - at) / speed, LONGEST_PAUSE_SECONDS)))
        at = event.at
        yield event


def _write(output: str | None, pieces: Iterable[str]) -> None:
    if output is None:
        for piece in pieces:
            click.echo(piece, nl=False)
        return
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.writelines(pieces)
    except OSError as err:
        raise fleet.BadRequest(f"{output} cannot be written: {err.strerror}", "name another file") from err


def print_rows(rows: list[tuple[str, float, str, str]], empty: str) -> None:
    """One line each: id, when, how it is, and what it is about. `empty` is said where there is none."""
    for key, at, word, text in rows:
        click.echo(f"{key}  {time.strftime('%Y-%m-%d %H:%M', time.localtime(at))}  {word:<12}{_line(text)}")
    if not rows:
        click.echo(empty, err=True)


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


def _line(text: str) -> str:
    words = " ".join(text.split())
    return fleet.terminal.clean(words if len(words) <= 80 else f"{words[:79]}…")
