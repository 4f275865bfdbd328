"""`fleet optimizations`: what was tried, row by row and side by side, in a terminal."""

from __future__ import annotations

from typing import Any

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.cli_kept import print_rows
from fleet_rlm_jupyter.cli_parts import json_option, opened_bench, print_json
from fleet_rlm_jupyter.cli_programs import show_programs, split_option

_cursor_option = click.option("--cursor", type=click.IntRange(0), default=0, help="Of the page before.")
_limit_option = click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="Most rows.")


@click.group()
def optimizations() -> None:
    """What `fleet evaluate` and `fleet optimize` found: list, show, rows, compare, save."""


@optimizations.command("list")
@click.option("--program", default="", help="Only of this program, or of NAME@VERSION.")
@click.option("--dataset", default="", help="Only on this dataset.")
@_limit_option
@json_option
def list_optimizations(program: str, dataset: str, limit: int, as_json: bool) -> None:
    """List the newest evaluations and optimizations."""
    with opened_bench() as bench:
        found = bench.optimizations.list(program, dataset, limit)
    if as_json:
        print_json({"optimizations": [one.model_dump(mode="json") for one in found]})
        return
    rows = [(one.run_id, one.started_at, one.status or one.phase, _in_short(one)) for one in found]
    print_rows(rows, "nothing was tried that fits; `fleet evaluate` and `fleet optimize` do")


@optimizations.command("show")
@click.argument("run_id")
@json_option
def show_optimization(run_id: str, as_json: bool) -> None:
    """Show the candidates of an optimization with their scores and instructions, also while it goes on."""
    with opened_bench() as bench:
        one = bench.optimizations.get(run_id)
    if as_json:
        print_json(one.model_dump(mode="json"))
        return
    _say(f"{one.program} on {one.dataset}  {one.status or 'running'}, phase {one.phase}  {one.usage.calls} LM calls")
    if one.error is not None:
        _say(f"  {one.error.text}")
    for candidate in one.candidates:
        mark = "*" if candidate.name == one.best else " "
        kept = f"  kept as {candidate.version}" if candidate.version not in ("", candidate.name) else ""
        _say(f"{mark} {candidate.name}{_scores(candidate)}{kept}")
        for predictor, text in candidate.instructions.items():
            _say(f"    {predictor}: {text}".replace("\n", "\n      "))


@optimizations.command("rows")
@click.argument("run_id")
@click.option("--candidate", default="", help="Only of this candidate.")
@split_option
@_limit_option
@_cursor_option
@json_option
def show_rows(run_id: str, candidate: str, split: Any, limit: int, cursor: int, as_json: bool) -> None:
    """Show the rows of an optimization in the order they were scored."""
    with opened_bench() as bench:
        page = bench.optimizations.rows(run_id, candidate, split, limit, cursor)
    if as_json:
        print_json(page.model_dump(mode="json"))
        return
    for row in page.rows:
        found = row.found if row.error is None else f"failed: {row.error.text}"
        _say(f"{row.row_id[:8]}  {row.candidate}  {row.split}  {row.score:.3f}  {row.expected} | {found}")
    _say_more(page.cursor)


@optimizations.command("compare")
@click.argument("names", nargs=-1, required=True)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True)
@_limit_option
@_cursor_option
@json_option
def compare(names: tuple[str, ...], split: Any, limit: int, cursor: int, as_json: bool) -> None:
    """Compare two to five NAMES row by row; the rows on which they differ most come first.

    A name is the id of a run, for the best that it found, id:CANDIDATE, a program, or NAME@VERSION.
    """
    with opened_bench() as bench:
        found = bench.optimizations.compare(*names, split=split, limit=limit, cursor=cursor)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for side in found.sides:
        left_out = f"  {side.left_out} more rows only here" if side.left_out else ""
        _say(f"{side.name}  {side.candidate} of {side.run_id}  {side.score:.3f} ({side.difference:+.3f}){left_out}")
    _say(f"{found.total} rows of {split}")
    for row in found.rows:
        scores = "  ".join(
            f"{score:.3f} ({difference:+.3f})" for score, difference in zip(row.scores, row.differences, strict=True)
        )
        _say(f"{row.row_id[:8]}  {scores}  {row.expected} | {' | '.join(row.found)}")
    _say_more(found.cursor)


@optimizations.command("save")
@click.argument("run_id")
@click.option("--candidate", default="", help="By default the best.")
def save_candidate(run_id: str, candidate: str) -> None:
    """Keep a candidate as the program's next version, also of a run that was stopped or died."""
    with opened_bench() as bench:
        show_programs([bench.optimizations.save(run_id, candidate)])


def _in_short(one: Any) -> str:
    best = one.candidate() if one.candidates else None
    scores = "" if best is None else f": {best.version or best.name}{_scores(best)}"
    return f"{one.program} on {one.dataset}{scores}"


def _scores(candidate: Any) -> str:
    return "".join(f"  {split} {score:.3f}" for split, score in candidate.scores.items())


def _say(text: str) -> None:
    click.echo(fleet.terminal.clean(text))


def _say_more(cursor: int | None) -> None:
    if cursor is not None:
        click.echo(f"more with --cursor {cursor}", err=True)
