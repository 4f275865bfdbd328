"""`%fleet status, runs, doctor, smoke`: where runs happen, which there were, and what is configured and works there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from fleet_rlm_jupyter.domain.errors import FleetError
from fleet_rlm_jupyter.domain.question import Check, Phase
from fleet_rlm_jupyter.kernel.connect import FoundServer, find_server
from fleet_rlm_jupyter.kernel.handles import AskOptions, Notebook
from fleet_rlm_jupyter.kernel.placement import On
from fleet_rlm_jupyter.settings import Loaded
from fleet_rlm_jupyter.terminal import as_given, setting_rows
from fleet_rlm_jupyter.verbs.smoke import SmokeFailed

_MARKS = {"passed": "✓", "failed": "✗", "skipped": "–"}


def status(book: Notebook) -> Iterator[str]:
    """Where the next question goes, model and sandbox there, and the runs of this kernel. Raises BadSettings."""
    bench, place = book.bench(), book.place()
    running = [handle for handle in book.handles if handle.status == "running"]
    yield f"server:  {server_line(find_server(bench.settings))}"
    yield f"asks:    {place.line}"
    if place.server is None:
        models = bench.models()
        yield f"model:   {models.label} — {models.source}"
        yield f"sandbox: {bench.sandboxes(trusted_code=models.is_offline).isolation.label}"
    else:
        try:
            found = {check.name: check for check in book.remote(place.server).ready()}
        except FleetError as err:
            found = {name: Check(name, False, f"unknown: {err.text}") for name in ("model", "sandbox")}
        yield f"model:   {found['model'].text}"
        yield f"sandbox: {found['sandbox'].text}"
    yield f"runs:    {len(book.handles)} asked, {len(running)} running"
    for handle in running:
        yield f"         {handle.run_id}  {_short(handle.live.question)}"


def runs(book: Notebook, words: str) -> Iterator[str]:
    """The newest runs with `words` in their question or id, the newest last. Raises StoreFailed, ServerUnavailable."""
    here = {handle.run_id: handle for handle in book.handles}
    kept = book.listed(words)
    lost = [handle for run_id, handle in here.items() if run_id not in {run.run_id for run in kept} and not words]
    if not kept and not lost:
        yield "no run is kept that fits; ask with %%fleet" if words else "nothing was asked yet; ask with %%fleet"
    for run in reversed(kept):
        place = "  " if run.run_id in here else "· "
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at))
        yield f"{place}{run.run_id}  {when}  {run.status or 'running':<12}{_short(run.question)}"
    for handle in lost:
        yield f"  {handle.run_id}  not kept          {handle.status:<12}{_short(handle.live.question)}"
    if any(run.run_id not in here for run in kept):
        yield "·  asked elsewhere; %fleet replay RUN_ID shows any of them"


def doctor(book: Notebook) -> Iterator[str]:
    """What is configured, whether it works and what to do next: on the server where runs go there, and in this kernel.

    Starts a sandbox in each and runs one cell. Raises BadSettings.
    """
    bench, place = book.bench(), book.place()
    if place.server is not None:
        yield f"{place.line}, where questions go:"
        there = book.remote(place.server)
        try:
            yield from _checks(there.check())
            yield ""
            rows = [(row.name, as_given(row.value), row.source) for row in there.settings_view.get()]
            yield from _rows(row for row in rows if row[2] != "default")
        except FleetError as err:
            yield from _checks([Check("server", False, err.text, err.hint)])
        yield ""
        yield "in this kernel, where runs go that are tied to it:"
    yield from _checks(bench.check())
    yield ""
    yield from setting_lines(bench.loaded, changed_only=True)


def smoke(book: Notebook, on: On, repo: str | None, ref: str | None) -> Iterator[str]:
    """One sandbox from its creation to its end where questions go, phase by phase.

    Raises SmokeFailed at the end where a phase failed, so that a notebook in a batch stops, BadRequest and BadSettings.
    """
    bench, place = book.bench(), book.place(AskOptions(on=on))
    yield f"{place.line}:"
    there = bench if place.server is None else book.remote(place.server)
    failed: Phase | None = None
    for phase in there.smoke(repo, ref):
        seconds = "" if phase.status == "skipped" else f"{phase.seconds:.2f} s"
        yield f"{_MARKS[phase.status]} {phase.name:<9}{seconds:>8}  {phase.text}"
        if phase.status == "failed":
            failed = failed or phase
    if failed is not None:
        raise SmokeFailed(f"the phase {failed.name} failed", failed.error.hint if failed.error else "")


def setting_lines(loaded: Loaded, only: str | None = None, changed_only: bool = False) -> Iterator[str]:
    """Settings with their sources: all, one, or those that are not at their default."""
    rows = [row for row in setting_rows(loaded) if only in (None, row[0])]
    return _rows(row for row in rows if not (changed_only and row[2] == "default"))


def server_line(found: FoundServer) -> str:
    if found.server is not None:
        return f"{found.server.url} ({found.server.source})"
    return f"none: {found.reason}" if found.reason else "none"


def _checks(found: Iterable[Check]) -> Iterator[str]:
    for check in found:
        yield f"{'✓' if check.is_good else '✗'} {check.name}: {check.text}"
        if check.hint:
            yield f"    next: {check.hint}"


def _rows(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    for name, value, source in rows:
        yield f"{name:<28}{value or '—':<24}{source}"


def _short(question: str) -> str:
    words = " ".join(question.split())
    return words if len(words) <= 80 else f"{words[:79]}…"
