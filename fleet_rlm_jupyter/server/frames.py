"""The frames of the socket: ops that come in, and how a bad one is told apart."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.server.schema import MAX_SEQ, AskBody, Problem, Wire, frame_problem

MAX_FRAME_BYTES = 1024**2
MAX_DEPTH = 32

FrameId = Annotated[str, Field(max_length=128)]


class _Op(Wire):
    id: FrameId | None = Field(default=None, description="comes back with the reply")


class AskOp(_Op, AskBody):
    """Start a run and follow it from its first event. Answered by `accepted`, then its events."""

    op: Literal["ask"]


class FollowOp(_Op):
    """Events of a run from seq `since` on, while it goes on or from the store."""

    op: Literal["follow"]
    run_id: str
    since: int = Field(default=0, ge=0, le=MAX_SEQ)


class UnfollowOp(_Op):
    """No more events of that run on this socket."""

    op: Literal["unfollow"]
    run_id: str


class CancelOp(_Op):
    """Stop a run, or with `call_id` one call of it and what is below."""

    op: Literal["cancel"]
    run_id: str
    call_id: str | None = None


class AnswerOp(_Op):
    """Answer what a call of a run has asked (`question.asked`)."""

    op: Literal["answer"]
    run_id: str
    call_id: str
    text: str = Field(max_length=100_000)


Op = Annotated[AskOp | FollowOp | UnfollowOp | CancelOp | AnswerOp, Field(discriminator="op")]
OPS = (AskOp, FollowOp, UnfollowOp, CancelOp, AnswerOp)
_OPS: TypeAdapter[Op] = TypeAdapter(Op)
_NAMES = {get_args(kind.model_fields["op"].annotation)[0] for kind in OPS}


class BadFrame(BadRequest):
    """A frame of the socket that cannot be worked on; its code says how."""

    code = "bad_frame"

    def __init__(self, problem: Problem, frame_id: str | None = None) -> None:
        super().__init__(problem.message, problem.hint)
        self.code = problem.code
        self.frame_id = frame_id


def parse(message: str | bytes) -> Op:
    """The op in a frame. Raises BadFrame; what was sent is never repeated, it may be a key."""
    if isinstance(message, bytes):
        raise _bad("binary_frame", "frames are text", "send JSON as a text frame")
    if len(message) > MAX_FRAME_BYTES:
        raise _bad("too_large", f"a frame has at most {MAX_FRAME_BYTES:,} characters", "upload contexts by digest")
    try:
        data = json.loads(message, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise _bad("bad_json", "the frame is not JSON", "send one JSON object a frame") from None
    if not isinstance(data, dict):
        raise _bad("bad_json", "the frame is no JSON object", "send one JSON object a frame")
    given = data.get("id")
    frame_id = given if isinstance(given, str) and len(given) <= 128 and given.isprintable() else None
    if _is_deep(data):
        raise _bad("too_deep", f"the frame is nested deeper than {MAX_DEPTH} levels", "flatten it", frame_id)
    op = data.get("op")
    if not isinstance(op, str) or op not in _NAMES:
        raise _bad("unknown_op", "there is no such op", f"the ops are {', '.join(sorted(_NAMES))}", frame_id)
    try:
        return _OPS.validate_python(data)
    except ValidationError as err:
        raise BadFrame(frame_problem(err), frame_id) from None


def _bad(code: str, message: str, hint: str, frame_id: str | None = None) -> BadFrame:
    return BadFrame(Problem(code=code, message=message, hint=hint), frame_id)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True
