"""`fleet`: the verbs in a terminal. Only translates; heavy modules come in through the package's lazy names."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, NoReturn

import click

import fleet_rlm_jupyter as fleet
from fleet_rlm_jupyter import cli_kept, cli_memory, cli_optimizations, cli_programs, cli_sandboxes
from fleet_rlm_jupyter.cli_parts import json_option, print_json

EXIT_CODES = {"done": 0, "failed": 1, "over_budget": 3, "abstained": 4, "cancelled": 130}
BAD_INPUT = 2
STOP_SECONDS = 10

_SETTINGS = ("model", "sub_model", "api_base")
_LIMITS = ("calls", "sub_calls", "tokens", "cost", "seconds", "depth", "sandboxes")

_settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any setting, e.g. sandbox.memory_mb=4096; repeatable.",
)
_dataset_option = click.option("--dataset", required=True, help="Name of the dataset; `fleet datasets` lists them.")
_metric_option = click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="exact, caseless, contains, coverage or number; repeatable. By default exact.",
)
_tolerance_option = click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=1e-6, show_default=True, help="Of the metric number, relative."
)
_debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fleet.__version__, prog_name="fleet")
def app() -> None:
    """Ask questions over texts that are too long for a context window."""


@app.command()
@click.argument("question")
@click.option(
    "--context",
    "--file",
    "paths",
    multiple=True,
    metavar="PATH|URL",
    help="What to ask about: file, folder or URL; repeatable.",
)
@click.option(
    "--stage",
    "context_paths",
    multiple=True,
    metavar="PATH",
    help="File or folder that code in the sandbox is to open by its path; repeatable.",
)
@click.option("--repo", metavar="URL", help="Repository for the sandbox to hold.")
@click.option("--ref", metavar="REF", help="Its branch, tag or commit id; the default branch where left out.")
@click.option("--model", help="DSPy model string, e.g. openai/gpt-5; offline/recipes needs no key.")
@click.option("--sub-model", help="Model for sub-queries.")
@click.option("--api-base", help="URL of an OpenAI-compatible server.")
@click.option(
    "--mode", type=click.Choice(["auto", "rlm_only", "direct"]), default="auto", help="RLM, plain call, or by size."
)
@click.option("--session", "session_id", metavar="ID", help="Session to go on with: the model is told of its turns.")
@click.option("--snapshot", is_flag=True, help="Keep what is asked and told: `fleet snapshots` asks it again.")
@click.option("--recipe", help="Offline recipe to use; `fleet recipes` lists them.")
@click.option("--slot", "slots", multiple=True, metavar="NAME=VALUE", help="A slot of the recipe; repeatable.")
@click.option("--calls", type=int, help="Most LM calls of the whole tree.")
@click.option("--sub-calls", type=int, help="Most LM calls made by generated code.")
@click.option("--tokens", type=int, help="Most tokens, in and out.")
@click.option("--cost", type=float, help="Most US dollars.")
@click.option("--seconds", type=float, help="Most seconds.")
@click.option("--depth", type=int, help="Deepest recursion.")
@click.option("--sandboxes", type=int, help="Most sandboxes at the same time.")
@_settings_option
@json_option
@_debug_option
def ask(question: str, as_json: bool, **given: Any) -> NoReturn:
    """Answer QUESTION over files, folders and URLs of any size.

    Exit code: 0 done, 1 failed, 2 bad input, 3 over budget, 4 abstained, 130 cancelled.
    """
    sys.exit(_ask(question, as_json, given))


@app.command()
@click.argument("program")
@_dataset_option
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True, help="Which rows."
)
@_metric_option
@_tolerance_option
@_settings_option
@json_option
@_debug_option
def evaluate(program: str, as_json: bool, settings: tuple[str, ...], **given: Any) -> NoReturn:
    """Score PROGRAM (a name, or name@version) on the rows of a dataset."""
    sys.exit(_try(program, "none", as_json, settings, given))


@app.command()
@click.argument("program")
@_dataset_option
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Most proposals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed does the same.")
@_metric_option
@_tolerance_option
@_settings_option
@json_option
@_debug_option
def optimize(program: str, as_json: bool, settings: tuple[str, ...], **given: Any) -> NoReturn:
    """Look for better instructions of PROGRAM on a dataset by GEPA; `--set budget.calls=N` bounds it.

    What is found is its next version; `fleet programs approve` puts it in force.
    """
    sys.exit(_try(program, "gepa", as_json, settings, given))


@app.command()
@click.argument("run_id")
@_settings_option
@json_option
@_debug_option
def repeat(run_id: str, settings: tuple[str, ...], as_json: bool) -> NoReturn:
    """Ask again what the snapshot of run RUN_ID has, told the same and within its limits, on the model now in force."""
    sys.exit(_repeat(run_id, as_json, settings))


@app.command()
@_settings_option
@json_option
@_debug_option
def doctor(settings: tuple[str, ...], as_json: bool) -> NoReturn:
    """Say what is configured, from where, whether it works, and what to do next."""
    sys.exit(_doctor(settings, as_json))


@app.command()
@click.option("--repo", metavar="URL", help="Repository to fetch and to put into the sandbox, too.")
@click.option("--ref", metavar="REF", help="Its branch, tag or commit id; the default branch where left out.")
@_settings_option
@json_option
@_debug_option
def smoke(repo: str | None, ref: str | None, settings: tuple[str, ...], as_json: bool) -> NoReturn:
    """Try one sandbox from its creation to its end, phase by phase: here, or on Daytona when that is configured."""
    sys.exit(_smoke(repo, ref, settings, as_json))


@app.command()
def recipes() -> None:
    """List the offline recipes and their slots."""
    for recipe in fleet.RECIPES.values():
        click.echo(f"{recipe.name}: {recipe.description}")
        for slot in recipe.slots:
            must = " (needed)" if slot.is_required else ""
            choices = f" [{', '.join(slot.choices)}]" if slot.choices else ""
            click.echo(f"    {slot.name}: {slot.description}{choices}{must}")
        click.echo(f"    e.g. {recipe.example}")


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(arguments: tuple[str, ...]) -> None:
    """Start JupyterLab (a Jupyter server where it is not installed) on loopback; takes its options."""
    fleet.server.lab(list(arguments))


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def localdaytona(arguments: tuple[str, ...]) -> NoReturn:
    """Run the local sandbox server in the foreground, for any Daytona SDK client."""
    sys.exit(fleet.localdaytona.main(list(arguments)))


for command in (
    cli_kept.runs,
    cli_kept.replay,
    cli_kept.sessions,
    cli_kept.snapshots,
    cli_memory.memory,
    cli_programs.programs,
    cli_programs.datasets,
    cli_optimizations.optimizations,
    cli_sandboxes.sandboxes,
):
    app.add_command(command)


def main() -> NoReturn:
    """Entry point: whatever goes wrong is one sentence, the next step and an exit code."""
    _end_with_the_terminal()
    try:
        app(prog_name="fleet", standalone_mode=False)
        code = 0
    except click.exceptions.Exit as err:
        code = err.exit_code
    except click.exceptions.NoArgsIsHelpError as err:
        print(err.format_message())  # a group of commands alone: what there is, no error
        code = 0
    except click.ClickException as err:
        command = err.ctx.command_path if isinstance(err, click.UsageError) and err.ctx else "fleet"
        code = _report(fleet.BadRequest(err.format_message().rstrip("."), f"see {command} --help"))
    except fleet.FleetError as err:
        code = _report(err)
    except (click.Abort, KeyboardInterrupt):
        code = _stopped()
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not complain about it while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_CODES["cancelled"]
    except Exception as err:
        code = _report(
            fleet.FleetError(
                f"fleet itself failed: {type(err).__name__}: {err}",
                "this is a defect: run it again with --debug and report what it prints",
            )
        )
    sys.exit(code)


def _ask(question: str, as_json: bool, given: dict[str, Any]) -> int:
    overrides = _overrides(given.pop("settings"))
    overrides.update({name: given[name] for name in _SETTINGS if given[name] is not None})
    overrides.update({f"budget.{name}": given[name] for name in _LIMITS if given[name] is not None})
    asked = fleet.Question(
        question,
        paths=given["paths"],
        mode=given["mode"],
        recipe=given["recipe"],
        slots=dict(_pairs("--slot", given["slots"])),
        repo_url=given["repo"],
        repo_ref=given["ref"],
        context_paths=given["context_paths"],
        session_id=given["session_id"],
        snapshot=given["snapshot"],
    )
    bench = fleet.Workbench(fleet.settings.load(overrides))
    return _followed(bench, lambda watcher: bench.ask(asked, watcher=watcher), _show_run, as_json)


def _repeat(run_id: str, as_json: bool, settings: tuple[str, ...]) -> int:
    bench = fleet.Workbench(fleet.settings.load(_overrides(settings)))
    return _followed(bench, lambda watcher: bench.repeat(run_id, watcher=watcher), _show_run, as_json)


def _try(program: str, optimizer: str, as_json: bool, settings: tuple[str, ...], given: dict[str, Any]) -> int:
    dataset = given.pop("dataset")
    if metrics := dict(_weighted(given.pop("metrics"))):
        given["metrics"] = metrics
    bench = fleet.Workbench(fleet.settings.load(_overrides(settings)))
    return _followed(
        bench,
        lambda watcher: bench.optimize(
            program, dataset, fleet.domain.program.Trial(optimizer=optimizer, **given), watcher=watcher
        ),
        lambda live, ended: fleet.terminal.print_end(ended),
        as_json,
    )


def _show_run(live: Any, ended: Any) -> None:
    fleet.terminal.print_run(ended, live.tree())


def _followed(bench: Any, begin: Callable[[Any], Any], show: Callable[[Any, Any], None], as_json: bool) -> int:
    """Watch a run to its end, print how it ended, and close its Workbench, which takes a moment; the exit code."""
    try:
        with fleet.terminal.Progress() as progress:
            live = begin(progress.show)
            ended = _wait(live)
        if ended.not_kept:
            click.echo(f"this run is not kept: {fleet.terminal.clean(ended.not_kept)}", err=True)
        if not as_json:
            show(live, ended)
    finally:
        bench.close()
    if as_json:  # after whatever may still go wrong: stdout has one object
        print_json(fleet.terminal.as_json(ended, live.tree()))
    return EXIT_CODES[ended.status]


def _weighted(metrics: Iterable[str]) -> Iterable[tuple[str, float]]:
    for text in metrics:
        name, _, weight = text.partition("=")
        try:
            found = float(weight or 1)
        except ValueError:
            found = 0.0
        if name not in ("exact", "caseless", "contains", "coverage", "number") or not 0 < found <= 1e6:
            raise click.UsageError(f"--metric takes a metric's name and a weight above 0, not {text!r}")
        yield name, found


def _wait(live: Any) -> Any:
    try:
        return live.result()
    except KeyboardInterrupt:
        click.echo("stopping; what was found is kept (Ctrl-C again leaves at once)", err=True)
        live.cancel()
    try:
        return live.result(timeout=STOP_SECONDS)
    except TimeoutError:
        text = f"the run has not stopped within {STOP_SECONDS} seconds"
        raise fleet.FleetError(text, "it ends with this process; its sandboxes are deleted") from None


def _doctor(settings: tuple[str, ...], as_json: bool) -> int:
    loaded = fleet.settings.load(_overrides(settings))
    bench = fleet.Workbench(loaded)
    try:
        checks = bench.check()
    finally:
        bench.close()
    if as_json:
        print_json(fleet.terminal.checks_as_json(checks, loaded))
    else:
        fleet.terminal.print_checks(checks, loaded)
    return 0 if all(check.is_good for check in checks) else 1


def _smoke(repo: str | None, ref: str | None, settings: tuple[str, ...], as_json: bool) -> int:
    if ref is not None and repo is None:
        raise click.UsageError("--ref is given without --repo")
    bench = fleet.Workbench(fleet.settings.load(_overrides(settings)))
    phases: list[Any] = []
    try:
        for phase in bench.smoke(repo, ref):
            phases.append(phase)
            if not as_json:
                fleet.terminal.print_phase(phase)
    finally:
        bench.close()
    if as_json:
        print_json(fleet.terminal.phases_as_json(phases))
    return 0 if all(phase.is_good for phase in phases) else EXIT_CODES["failed"]


def _report(err: Any) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    _say_no_run("failed", {"code": err.code, "text": err.text, "hint": err.hint})
    fleet.terminal.print_error(err.text, err.hint)
    return BAD_INPUT if isinstance(err, fleet.ForUser) else EXIT_CODES["failed"]


def _stopped() -> int:
    """Stopped before there was a run, or a second time: there is nothing found to show."""
    _say_no_run("cancelled", {"code": "cancelled", "text": "stopped", "hint": ""})
    click.echo("stopped", err=True)
    return EXIT_CODES["cancelled"]


def _say_no_run(status: str, error: dict[str, str]) -> None:
    """With `--json` stdout holds one object however the command ends."""
    if "--json" in sys.argv:
        nothing = dict.fromkeys(("answer", "usage", "run_id", "model", "sandbox"))
        print_json({"status": status, **nothing, "error": error})


def _overrides(settings: Iterable[str]) -> dict[str, str]:
    return dict(_pairs("--set", settings))


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        yield name, value


def _end_with_the_terminal() -> None:
    """SIGTERM and a closed terminal end a run as Ctrl-C does: sandboxes are deleted, what was found is printed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
