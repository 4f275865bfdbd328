"""The magics of `%load_ext fleet_rlm_jupyter`. Only translates; heavy modules come in by the package's lazy names."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
import time
import traceback
from collections.abc import Iterable
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
    parse_smoke,
    sandbox_help,
    split,
)
from fleet_rlm_jupyter.kernel.completion import matcher

_WARM = ("fleet_rlm_jupyter.kernel.display", "daytona")
"""What the first question needs and takes seconds to import."""


class FleetMagicError(Exception):
    """What went wrong in one line, and the next step; the traceback of what was wrong is for `%tb`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines

    def _render_traceback_(self) -> list[str]:
        if sys.exc_info()[1] is None and self.__cause__ is not None:
            return _traceback_of(self.__cause__)
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
        lines = fleet.kernel.display.LiveLines()
        try:
            is_interrupted = lines.follow(lambda take: book.start(cell.strip(), context, options, take))
            handle = lines.handle
            result = handle.result(fleet.kernel.handles.STOP_SECONDS)
        except TimeoutError:
            text = f"run {lines.handle.run_id} was stopped and has not ended yet"
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
            "resume": self._resume,
            "export": self._export,
            "memory": self._memory,
            "sandboxes": self._sandboxes,
            "doctor": self._doctor,
            "smoke": self._smoke,
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
        _print(fleet.kernel.looks.status(_notebook()))

    def _connect(self, words: list[str]) -> None:
        book = _notebook()
        if not words:
            book.overrides.pop("server_url", None)
            print(fleet.kernel.looks.server_line(fleet.kernel.connect.find_server(book.bench().settings)))
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
        print(fleet.kernel.looks.server_line(found))

    def _runs(self, words: list[str]) -> None:
        _print(fleet.kernel.looks.runs(_notebook(), " ".join(words)))

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

    def _resume(self, words: list[str]) -> None:
        _print(fleet.kernel.resume.lines(_notebook(), words))

    def _export(self, words: list[str]) -> None:
        _print(fleet.kernel.export.lines(_notebook(), words))

    def _memory(self, words: list[str]) -> None:
        _print(fleet.kernel.memory.lines(_notebook(), words))

    def _sandboxes(self, words: list[str]) -> None:
        _print(fleet.kernel.sandboxes.lines(_notebook(), words))

    def _doctor(self, words: list[str]) -> None:
        _print(fleet.kernel.looks.doctor(_notebook()))

    def _smoke(self, words: list[str]) -> None:
        given = parse_smoke(words)
        _print(fleet.kernel.looks.smoke(_notebook(), given.on or "auto", given.repo, given.ref))

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
            lines = list(fleet.kernel.looks.setting_lines(book.bench().loaded, words[0] if words else None))
            if not lines:
                fleet.settings.load({words[0]: "?"})  # raises, with the nearest name
            _print(lines)

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
        except KeyboardInterrupt:
            raise FleetInterrupted("interrupted") from None
        except fleet.FleetError as err:
            raise self._told(err, _lines_of(err, _mask())) from err
        except Exception as err:
            lines = [f"error: {type(err).__name__}: {_mask()(str(err))}", "next:  %tb shows where it was raised"]
            raise self._told(err, lines) from err

    def _told(self, err: Exception, lines: list[str]) -> Exception:
        return FleetMagicError([*(_traceback_of(err) if _notebook().shows_tracebacks else []), *lines])


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


def _print(lines: Iterable[str]) -> None:
    """Line by line as they come, so that what takes long is seen to go on."""
    mask = _mask()
    for line in lines:
        print(fleet.terminal.clean(mask(line)), flush=True)


def _mask() -> Any:
    return fleet.kernel.handles.mask_in_force()


def _traceback_of(err: BaseException) -> list[str]:
    mask = _mask()
    return [mask(line) for line in traceback.format_exception(err)]


def _lines_of(error: Any, mask: Any) -> list[str]:
    return [f"error: {mask(error.text)}", *([f"next:  {mask(error.hint)}"] if error.hint else [])]


def _replay_lines(result: Any, mask: Any, speed: float) -> None:
    at = result.trace[0].at
    for event in result.trace:
        time.sleep(max(0.0, min((event.at - at) / speed, 5.0)))
        at = event.at
        line = fleet.domain.lines.progress_line(event)
        if line:
            print(fleet.terminal.clean(mask(line)), flush=True)
