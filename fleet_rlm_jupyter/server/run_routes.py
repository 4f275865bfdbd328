"""Routes of runs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fleet_rlm_jupyter.domain.context import Context
from fleet_rlm_jupyter.domain.errors import BadPath, BadRequest
from fleet_rlm_jupyter.domain.question import Question
from fleet_rlm_jupyter.domain.session import Feedback, KeptRun, Run
from fleet_rlm_jupyter.domain.staging import Staging, StagingManifest
from fleet_rlm_jupyter.server.desk import Asked
from fleet_rlm_jupyter.server.schema import (
    Accepted,
    AnswerBody,
    AskBody,
    CancelBody,
    ContextRef,
    EventsQuery,
    FeedbackBody,
    Readable,
    RunBody,
    RunsPage,
    RunsQuery,
    TreeBody,
    ValueBody,
    ValueQuery,
)
from fleet_rlm_jupyter.server.web import Endpoint, Raw
from fleet_rlm_jupyter.verbs.frames import readers, unpacked
from fleet_rlm_jupyter.workbench import Workbench

_TEXTS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def ask(asked: Asked, body: AskBody) -> Accepted:
    """Start a run that answers a question. With a key that was used before: the run of then."""
    question = Question(
        body.question,
        paths=[_under_root(path) for path in body.paths],
        context=None if body.context is None else _context(asked, body.context),
        mode=body.mode,
        recipe=body.recipe,
        slots=body.slots,
        session_id=body.session_id,
        key=body.key,
        when_busy=body.when_busy,
        can_answer=body.can_answer,
        repo_url=body.repo_url,
        repo_ref=body.repo_ref,
        context_paths=[_under_root(path) for path in body.context_paths],
        snapshot=body.snapshot,
        staged=None if body.staged is None else _staging(asked, body.staged),
    )
    return asked.accepted(asked.bench.ask(question, body.limits))


def readable(asked: Asked) -> Readable:
    """What a table may be sent as: `columns` where pandas is among the libraries here, `arrow` with pyarrow too."""
    return Readable(libraries=readers())


def run_program(asked: Asked, name: str, body: RunBody) -> Accepted:
    """Run a program by its name. With a key that was used before: the run of then."""
    return asked.accepted(asked.bench.run(name, body.inputs, body.limits, session_id=body.session_id, key=body.key))


def list_runs(asked: Asked, query: RunsQuery) -> RunsPage:
    """The user's runs, newest first; `before` takes the `started_at` of the last one for the next page."""
    return RunsPage(runs=asked.bench.runs.list(query.search, query.session_id, query.limit, query.before))


def run(asked: Asked, run_id: str) -> KeptRun:
    """A run's line in the list: its status is null while it goes on."""
    return asked.bench.runs.get(run_id)


def run_record(asked: Asked, run_id: str) -> Run:
    """A run as it ended, with answer, usage and error; refused while it goes on."""
    return asked.bench.runs.record(run_id)


def run_events(asked: Asked, run_id: str, query: EventsQuery) -> Raw:
    """The events from `since` on that there are by now, at most `limit`: {"events": […], "next": seq, "status": …}."""
    status = asked.bench.runs.get(run_id).status
    lines = [event.encode() for event in islice(asked.bench.runs.events(run_id, query.since), query.limit)]
    shown = "null" if status is None else f'"{status}"'
    text = f'{{"events":[{",".join(lines)}],"next":{query.since + len(lines)},"status":{shown}}}'
    return Raw([text.encode("utf-8", "replace")], "application/json")


def run_tree(asked: Asked, run_id: str) -> TreeBody:
    """The recursion tree by now, its calls as a list in the order they began."""
    return TreeBody.of(asked.bench.runs.tree(run_id))


def run_value(asked: Asked, run_id: str, query: ValueQuery) -> ValueBody:
    """The full text behind a preview: an input of a call by its name, or `outputs`."""
    return ValueBody(text=asked.bench.runs.value(run_id, query.call_id, query.name))


def export_run(asked: Asked, run_id: str) -> Raw:
    """The run's events as lines of JSON, however many they are."""
    lines = asked.bench.runs.export(run_id)
    return Raw((f"{line}\n".encode("utf-8", "replace") for line in lines), "application/x-ndjson", f"{run_id}.jsonl")


def cancel_run(asked: Asked, run_id: str, body: CancelBody) -> None:
    """Stop it, or with `call_id` one call and what is below: no LM call starts there. Harmless when it has ended."""
    asked.bench.cancel(run_id, body.call_id)


def answer_run(asked: Asked, run_id: str, body: AnswerBody) -> None:
    """Answer what a call of it has asked."""
    asked.bench.answer(run_id, body.call_id, body.text)


def give_feedback(asked: Asked, run_id: str, body: FeedbackBody) -> Feedback:
    """What its user thought of the turn that the run answered."""
    return asked.bench.runs.feedback(run_id, body.rating, body.expected, body.comment)


def is_open(bench: Workbench, run_id: str) -> bool:
    """Whether the run goes on. Raises NoSuchRun."""
    return bench.runs.get(run_id).status is None


ROUTES = (
    Endpoint("GET", "/contexts", readable),
    Endpoint("POST", "/runs", ask, status=201),
    Endpoint("POST", "/programs/{name}/runs", run_program, status=201),
    Endpoint("GET", "/runs", list_runs),
    Endpoint("GET", "/runs/{run_id}", run),
    Endpoint("GET", "/runs/{run_id}/record", run_record),
    Endpoint("GET", "/runs/{run_id}/events", run_events),
    Endpoint("GET", "/runs/{run_id}/tree", run_tree),
    Endpoint("GET", "/runs/{run_id}/value", run_value),
    Endpoint("GET", "/runs/{run_id}/export", export_run),
    Endpoint("POST", "/runs/{run_id}/cancel", cancel_run, status=204),
    Endpoint("POST", "/runs/{run_id}/answer", answer_run, status=204),
    Endpoint("PUT", "/runs/{run_id}/feedback", give_feedback),
)


def _context(asked: Asked, ref: ContextRef) -> Context:
    raw = asked.bench.contexts.get(ref.sha256)
    if ref.kind in ("arrow", "columns"):
        made = unpacked(ref.kind, raw, asked.bench.settings.context.max_mb)
    else:
        try:
            text = raw.decode("utf-8", "surrogatepass")
            made = Context.of(text if ref.kind == "text" else _TEXTS.validate_json(text))
        except ValueError as err:
            raise BadRequest(f"the context {ref.sha256[:12]} is no {ref.kind}", "say which kind it is") from err
    if ref.note:
        made.manifest.notes.append(ref.note)
    return made


def _staging(asked: Asked, sha256: str) -> Staging:
    """What was uploaded to be staged: a manifest, and each of its files, by digest."""
    try:
        manifest = StagingManifest.model_validate_json(asked.bench.contexts.get(sha256))
    except ValidationError as err:
        raise BadRequest(f"the context {sha256[:12]} is no manifest of staged files", "see docs/reference") from err
    return Staging(manifest, {file.sha256: asked.bench.contexts.path(file.sha256) for file in manifest.files})


def _under_root(path: str) -> Path:
    """A path under the server's root folder, where the worker stands. Raises BadPath for one that leaves it."""
    root = Path.cwd().resolve()
    try:
        found = (root / path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as err:
        raise BadPath(f"there is no {path!r} under the server's root folder", "look at the file browser") from err
    if not found.is_relative_to(root):
        raise BadPath(f"{path!r} is not under the server's root folder", "upload it, or ask from a notebook")
    return found
