"""The magics of `%load_ext fleet_rlm_jupyter`. Only translates; heavy modules come in by the package's lazy names."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
import traceback
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_cell_magic, magics_class

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter.kernel.arguments import (
    SUBCOMMANDS,
    CellArguments,
    cell_help,
    line_help,
    parse,
    parse_sandbox,
    sandbox_help,
    split,
)
from fleet_rlm_jupyter.kernel.completion import matcher

_WARM = ("fleet_rlm_jupyter.kernel.display", "daytona")
"""What the first question needs and takes seconds to import."""


class FleetMagicError(Exception):
    """What went wrong in one line, and the next step; no traceback."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines

    def _render_traceback_(self) -> list[str]:
        return self.lines


class FleetInterrupted(KeyboardInterrupt):
    """The user interrupted a question."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def _render_traceback_(self) -> list[str]:
        return [self.text]


@magics_class
class FleetMagics(Magics):
    """`%fleet`, `%%fleet`, `%%fleet_rlm` and `%%fleet_sandbox`."""

    shell: Any

    @line_cell_magic("fleet")
    def fleet(self, line: str, cell: str | None = None) -> None:
        if cell is None:
            self._guarded(lambda: self._command(line))
        else:
            self._guarded(lambda: self._ask(parse(line), cell))

    @cell_magic("fleet_rlm")
    def fleet_rlm(self, line: str, cell: str) -> None:
        def ask() -> None:
            given = parse(line)
            given.mode = "rlm_only"
            self._ask(given, cell)

        self._guarded(ask)

    @cell_magic("fleet_sandbox")
    def fleet_sandbox(self, line: str, cell: str) -> None:
        self._guarded(lambda: self._run_in_sandbox(line, cell))

    fleet.__doc__ = f"{line_help()}\n\n{cell_help()}"
    fleet_rlm.__doc__ = f"The same as %%fleet --mode rlm_only.\n\n{cell_help()}"
    fleet_sandbox.__doc__ = sandbox_help()

    def _ask(self, given: CellArguments, cell: str) -> None:
        if given.is_help:
            print(cell_help())
            return
        book = _notebook()
        context = None
        if given.variables:
            if given.paths:
                raise fleet.ForUser(
                    "--var and --context do not go together",
                    "put the path in a variable: folder = Path(…), --var folder",
                )
            limits = book.bench(given.settings).settings.context
            context = fleet.kernel.variables.context_of(given.variables, self.shell.user_ns, limits)
        options = fleet.kernel.handles.AskOptions(
            given.mode,
            given.paths,
            given.recipe,
            given.slots,
            given.limits,
            given.settings,
            given.on,
            given.repo,
            given.ref,
            given.staged,
        )
        handle = book.start(cell.strip(), context, options)
        lines = fleet.kernel.display.LiveLines(handle)
        try:
            is_interrupted = lines.follow()
            result = handle.result(fleet.kernel.handles.STOP_SECONDS)
        except TimeoutError:
            text = f"run {handle.run_id} was stopped and has not ended yet"
            raise fleet.ForUser(text, "%fleet runs says when it has") from None
        if given.out:
            self.shell.user_ns[given.out] = result
        lines.end(result)
        if result.run.not_kept:
            print(handle.mask(f"this run is not kept: {fleet.terminal.clean(result.run.not_kept)}"), file=sys.stderr)
        if is_interrupted:
            kept = f"; what was found is in {given.out}" if given.out else ""
            raise FleetInterrupted(f"interrupted: run {handle.run_id} was cancelled{kept}")
        if result.status == "failed":
            raise FleetMagicError(_lines_of(result.error, handle.mask))

    def _run_in_sandbox(self, line: str, cell: str) -> None:
        given = parse_sandbox(line)
        if given.is_help:
            print(sandbox_help())
            return
        cells = fleet.kernel.cells.SandboxCell(_notebook(), _mask())
        try:
            value = cells.run(cell, fleet.kernel.variables.values_of(given.variables, self.shell.user_ns), given)
        except KeyboardInterrupt:
            raise FleetInterrupted(cells.after_interrupt()) from None
        except fleet.domain.errors.CellFailed as err:
            mask, trace = _mask(), err.trace.splitlines()
            raise FleetMagicError(
                [*(fleet.terminal.clean(mask(line)) for line in trace), *_lines_of(err, mask)]
            ) from None
        if given.out:
            self.shell.user_ns[given.out] = value

    def _command(self, line: str) -> None:
        name, *words = split(line) or ["help"]
        commands = {
            "status": self._status,
            "connect": self._connect,
            "runs": self._runs,
            "replay": self._replay,
            "sandboxes": self._sandboxes,
            "doctor": self._doctor,
            "config": self._config,
            "help": self._help,
            "--help": self._help,
            "-h": self._help,
        }
        if name not in commands:
            raise fleet.ForUser(
                f"there is no %fleet {name}",
                f"it is one of {', '.join(SUBCOMMANDS)}; to ask, begin the cell with %%fleet",
            )
        commands[name](words)

    def _help(self, words: list[str]) -> None:
        print(f"{line_help()}\n\n{cell_help()}")

    def _status(self, words: list[str]) -> None:
        book = _notebook()
        bench = book.bench()
        models = bench.models()
        running = [handle for handle in book.handles if handle.status == "running"]
        print(f"server:  {_server_line(fleet.kernel.connect.find_server(bench.settings))}")
        print(f"asks:    {book.place().line}")
        print(f"model:   {models.label} — {models.source}")
        print(f"sandbox: {bench.sandboxes(trusted_code=models.is_offline).isolation.label}")
        print(f"runs:    {len(book.handles)} asked, {len(running)} running")
        for handle in running:
            print(f"         {handle.run_id}  {handle.mask(_short(handle.live.question))}")

    def _connect(self, words: list[str]) -> None:
        book = _notebook()
        if not words:
            book.overrides.pop("server_url", None)
            print(_server_line(fleet.kernel.connect.find_server(book.bench().settings)))
            return
        url = fleet.kernel.connect.base_of(" ".join(words))
        if "token=" in words[0]:
            raise fleet.ForUser(
                "a token does not belong in a notebook, which is saved",
                "put it into the environment: import os, getpass; os.environ['FLEET_SERVER_TOKEN'] = getpass.getpass()",
            )
        settings = book.bench({"server_url": url}).settings
        found = fleet.kernel.connect.find_server(settings)
        if found.server is None:
            raise fleet.ForUser(found.reason, "look at its address; %fleet connect alone forgets a name")
        book.overrides["server_url"] = url
        print(_server_line(found))

    def _runs(self, words: list[str]) -> None:
        book = _notebook()
        mask = _mask()
        here = {handle.run_id: handle for handle in book.handles}
        kept = book.listed(" ".join(words))
        lost = [handle for run_id, handle in here.items() if run_id not in {run.run_id for run in kept} and not words]
        if not kept and not lost:
            print("no run is kept that fits; ask with %%fleet" if words else "nothing was asked yet; ask with %%fleet")
        for run in reversed(kept):
            place = "  " if run.run_id in here else "· "
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at))
            print(mask(f"{place}{run.run_id}  {when}  {run.status or 'running':<12}{_short(run.question)}"))
        for handle in lost:
            print(mask(f"  {handle.run_id}  not kept          {handle.status:<12}{_short(handle.live.question)}"))
        if any(run.run_id not in here for run in kept):
            print("·  asked elsewhere; %fleet replay RUN_ID shows any of them")

    def _replay(self, words: list[str]) -> None:
        speed = 0.0
        if "--speed" in words:
            place = words.index("--speed")
            with contextlib.suppress(ValueError, IndexError):
                speed = float(words[place + 1])
            if speed <= 0:
                raise fleet.ForUser("--speed takes a number above 0", "1 is as fast as it was, 10 ten times that")
            del words[place : place + 2]
        result = _notebook().past(words[0] if words else None)
        if speed:
            _replay_lines(result, result.mask, speed)
        fleet.kernel.display.show(result)

    def _sandboxes(self, words: list[str]) -> None:
        mask = _mask()
        for line in fleet.kernel.sandboxes.lines(_notebook(), words):
            print(fleet.terminal.clean(mask(line)))

    def _doctor(self, words: list[str]) -> None:
        bench = _notebook().bench()
        mask = fleet.domain.masking.Mask.of(bench.settings)
        for check in bench.check():
            print(mask(f"{'✓' if check.is_good else '✗'} {check.name}: {check.text}"))
            if check.hint:
                print(mask(f"    next: {check.hint}"))
        print()
        _print_settings(bench, mask, changed_only=True)

    def _config(self, words: list[str]) -> None:
        book = _notebook()
        if words[:1] == ["debug"]:
            if words[1:] not in (["on"], ["off"]):
                raise fleet.ForUser("config debug is on or off", "%fleet config debug on shows tracebacks")
            book.shows_tracebacks = words[1] == "on"
        elif words == ["reset"]:
            book.overrides.clear()
        elif len(words) > 1:
            self._set(book, words[0], " ".join(words[1:]).removeprefix("=").strip())
        else:
            bench = book.bench()
            _print_settings(bench, fleet.domain.masking.Mask.of(bench.settings), only=words[0] if words else None)

    def _set(self, book: Any, name: str, value: str) -> None:
        if name.endswith(("api_key", "_token")) or name.startswith("provider_keys"):
            raise fleet.ForUser(
                "a key does not belong in a notebook, which is saved",
                "put it into the environment or a .env beside the notebook",
            )
        before = dict(book.overrides)
        book.overrides[name] = value
        try:
            book.bench()
        except fleet.FleetError:
            book.overrides = before
            raise

    def _guarded(self, work: Any) -> None:
        """Errors of ours become one line and the next step, for Jupyter and for papermill alike."""
        try:
            work()
        except (FleetMagicError, FleetInterrupted):
            raise
        except fleet.FleetError as err:
            raise self._told(err, _lines_of(err, _mask())) from None
        except Exception as err:
            lines = [
                f"error: {type(err).__name__}: {_mask()(str(err))}",
                "next:  %fleet config debug on, then again",
            ]
            raise self._told(err, lines) from None

    def _told(self, err: Exception, lines: list[str]) -> Exception:
        if _notebook().shows_tracebacks:
            return FleetMagicError([*traceback.format_exception(err), *lines])
        return FleetMagicError(lines)


def load(ip: InteractiveShell) -> None:
    """Register magics and completion, and begin to import what the first question needs. Twice is harmless."""
    unload(ip)
    ip.register_magics(FleetMagics)
    ip.Completer.custom_matchers.append(matcher(ip.user_ns))
    kind = ("fleet_rlm_jupyter.domain.calls", "CallTree")
    formatters: Any = ip.display_formatter
    formatters.formatters["text/plain"].for_type_by_name(*kind, _tree_as_text)
    formatters.formatters["text/html"].for_type_by_name(*kind, _tree_as_html)
    threading.Thread(target=_warm, name="fleet-warm", daemon=True).start()


def unload(ip: InteractiveShell) -> None:
    """Take them away again."""
    for kind, names in (("line", ("fleet",)), ("cell", ("fleet", "fleet_rlm", "fleet_sandbox"))):
        for name in names:
            ip.magics_manager.magics[kind].pop(name, None)
    known = ip.Completer.custom_matchers
    known[:] = [item for item in known if getattr(item, "__name__", "") != "fleet_matcher"]


def _warm() -> None:
    # Whatever fails here fails again, and is said, when the first question is asked.
    with contextlib.suppress(Exception):
        for name in _WARM:
            importlib.import_module(name)


def _notebook() -> Any:
    return fleet.kernel.handles.notebook()


def _tree_as_text(tree: Any, printer: Any, is_cycle: bool) -> None:
    printer.text(fleet.terminal.clean(_mask()("\n".join(fleet.kernel.page.tree_lines(tree)))))


def _tree_as_html(tree: Any) -> str:
    return fleet.kernel.page.tree_html(tree, _mask())


def _server_line(found: Any) -> str:
    if found.server is not None:
        return f"{found.server.url} ({found.server.source})"
    return f"none: {found.reason}" if found.reason else "none"


def _mask() -> Any:
    """What hides the keys in force; without readable settings, what looks like a key."""
    mask = fleet.domain.masking.Mask
    try:
        return mask.of(_notebook().bench().settings)
    except fleet.FleetError:
        return mask()


def _lines_of(error: Any, mask: Any) -> list[str]:
    return [f"error: {mask(error.text)}", *([f"next:  {mask(error.hint)}"] if error.hint else [])]


def _short(question: str) -> str:
    words = " ".join(question.split())
    return words if len(words) <= 80 else f"{words[:79]}…"


def _print_settings(bench: Any, mask: Any, only: str | None = None, changed_only: bool = False) -> None:
    rows = fleet.terminal.checks_as_json([], bench.loaded)["settings"]
    shown = [row for row in rows if only in (None, row["name"]) and not (changed_only and row["source"] == "default")]
    if only and not shown:
        fleet.settings.load({only: "?"})  # raises, with the nearest name
    for row in shown:
        print(mask(f"{row['name']:<28}{row['value'] or '—':<24}{row['source']}"))


def _replay_lines(result: Any, mask: Any, speed: float) -> None:
    at = result.trace[0].at
    for event in result.trace:
        time.sleep(max(0.0, min((event.at - at) / speed, 5.0)))
        at = event.at
        line = fleet.domain.lines.progress_line(event)
        if line:
            print(fleet.terminal.clean(mask(line)), flush=True)
