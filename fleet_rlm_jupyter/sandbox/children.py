"""A child's sandbox: forked from its parent's, clean, or shared with it; and the files that pass between the two."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Literal

from fleet_rlm_jupyter.domain.errors import BadPath, FleetError, SandboxError, SandboxUnavailable, during
from fleet_rlm_jupyter.domain.events import ArtifactWritten, ChildIsolation, SandboxChanged, SandboxState
from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.domain.volume import VolumePath
from fleet_rlm_jupyter.sandbox.client import DaytonaClient
from fleet_rlm_jupyter.sandbox.creation import Creation
from fleet_rlm_jupyter.sandbox.files import Digest, SandboxPlace, content, digests_below, put_file, sha256_of
from fleet_rlm_jupyter.sandbox.labels import labels_of
from fleet_rlm_jupyter.sandbox.machine import SandboxMachine
from fleet_rlm_jupyter.sandbox.pool import Pool
from fleet_rlm_jupyter.sandbox.service_errors import is_refusal
from fleet_rlm_jupyter.sandbox.specs import Spec

MOST_IN_FILES, MOST_IN_BYTES = 100, 100_000_000
MOST_OUT_FILES, MOST_OUT_BYTES = 100, 25_000_000


@dataclass(slots=True)
class _Visit:
    """One child: what it was given, and whose it is."""

    role: Role
    parent: SandboxMachine | None
    machine: SandboxMachine
    changed: SandboxChanged
    given: dict[str, str] = field(default_factory=dict[str, str])


class Children:
    """Thread-safe. A child's files are copies; what it leaves below artifacts/ is copied to its parent's."""

    def __init__(self, client: DaytonaClient, creation: Creation, pool: Pool) -> None:
        self._client = client
        self._creation = creation
        self._pool = pool
        self._lock = threading.Lock()
        self._numbers = 0
        self._no_fork = ""

    def take(self, parent_id: str, role: Role) -> tuple[SandboxMachine, SandboxChanged]:
        """A machine for a child of `parent_id`, with the files it is given. Whoever takes closes."""
        parent = self._pool.find(parent_id)
        visit = self._placed(parent_id, parent, role)
        try:
            if parent is not None and visit.changed.origin != "context":
                self._give(visit)
            self._write_texts(visit)
        except BaseException:
            visit.machine.close()
            raise
        visit.machine.on_close = lambda _: self._end(visit)
        return visit.machine, visit.changed

    def _placed(self, parent_id: str, parent: SandboxMachine | None, role: Role) -> _Visit:
        mode = self._client.settings.sandbox.children
        child = ChildIsolation(mode=mode, parent_id=parent_id, lease=role.lease)
        if parent is None:
            return self._clean(role, None, child, "no_parent_session")
        if mode == "context":
            return self._shared(role, parent, child)
        if mode == "clean":
            return self._clean(role, parent, child, "asked_for")
        if mode == "auto" and parent.has_volume:
            return self._clean(role, parent, child, "durable_volume_mounted")
        try:
            return self._forked(role, parent, child)
        except SandboxError as err:
            self._client.refuse_if_closed()
            if mode == "fork" and self._client.settings.sandbox.fork_fallback == "fail":
                raise SandboxUnavailable(
                    f"the parent's sandbox cannot be forked: {err.text}", "set sandbox.fork_fallback=clean"
                ) from err
            fallback = {"fallback_from": "fork", "fallback_error": err.text}
            return self._clean(role, parent, child.model_copy(update=fallback), "fork_failed")

    def _clean(self, role: Role, parent: SandboxMachine | None, child: ChildIsolation, reason: str) -> _Visit:
        labels = labels_of(self._creation.instance, role)
        machine = self._pool.take()
        if machine is None:
            machine = self._pool.make(Spec(labels))
        else:
            self._client.post(machine.label, labels)
        return _Visit(role, parent, machine, self._ready(machine, parent, "clean", reason, child))

    @during("fork")
    def _forked(self, role: Role, parent: SandboxMachine, child: ChildIsolation) -> _Visit:
        if self._no_fork:
            raise SandboxError(self._no_fork)
        try:
            sandbox = self._creation.fork(parent.sandbox, labels_of(self._creation.instance, role))
        except SandboxError as err:
            if is_refusal(err.__cause__):
                self._no_fork = err.text  # this kind of sandbox never can
            raise
        try:
            machine = self._pool.connect(sandbox)
        except BaseException:
            self._creation.delete(sandbox)
            raise
        # A fork has its parent's files: what it did not change is not its own work.
        copied, _ = digests_below(self._place(machine), "artifacts", MOST_OUT_FILES * 10)
        given = {one.path: one.sha256 for one in copied}
        changed = self._ready(machine, parent, "fork", "parent_alive", child)
        return _Visit(role, parent, machine, changed, given)

    def _shared(self, role: Role, parent: SandboxMachine, child: ChildIsolation) -> _Visit:
        with self._lock:
            self._numbers += 1
            name = f"{parent.sandbox_id}+{self._numbers}"
        machine = self._pool.connect(parent.sandbox, name)
        return _Visit(role, parent, machine, self._ready(machine, parent, "context", "asked_for", child))

    def _ready(
        self,
        machine: SandboxMachine,
        parent: SandboxMachine | None,
        origin: Literal["fork", "clean", "context"],
        reason: str,
        child: ChildIsolation,
    ) -> SandboxChanged:
        # What is mounted, if anything, is what its parent has: a clean child has no volume.
        mounted = parent.changed if parent is not None and machine.sandbox.volumes else None
        return SandboxChanged(
            sandbox_id=machine.sandbox_id,
            state="ready",
            isolation=self._client.isolation.label,
            origin=origin,
            reason=reason,
            volume=mounted.volume if mounted else "",
            subpath=mounted.subpath if mounted else "",
            child=child,
        )

    def _place(self, machine: SandboxMachine) -> SandboxPlace:
        return SandboxPlace(self._client, machine.sandbox, machine.base)

    @during("stage")
    def _give(self, visit: _Visit) -> None:
        """Copy the role's files into the child; a folder is all its files. Raises BadPath for what is not there."""
        if not visit.role.files:
            return
        assert visit.parent is not None
        source, target = self._place(visit.parent), self._place(visit.machine)
        wanted: dict[str, Digest] = {}
        for path in visit.role.files:
            found, is_cut = digests_below(source, str(VolumePath(path)), MOST_IN_FILES)
            if not found and not is_cut:
                raise BadPath(f"there is no file {path} to give to a child", "name files that this sandbox has")
            wanted.update({one.path: one for one in found})
            if is_cut or len(wanted) > MOST_IN_FILES or sum(one.bytes for one in wanted.values()) > MOST_IN_BYTES:
                raise BadPath(
                    f"{path} is too much for a child", f"at most {MOST_IN_FILES} files and {MOST_IN_BYTES:,} bytes"
                )
        for path in wanted:
            data = content(source, path, wanted[path].bytes)
            put_file(target, path, data)
            visit.given[path] = sha256_of(data)
        assert visit.changed.child is not None
        child = visit.changed.child.model_copy(update={"inputs": len(wanted)})
        visit.changed = visit.changed.model_copy(update={"child": child})

    def _write_texts(self, visit: _Visit) -> None:
        if not visit.role.texts:
            return
        target = self._place(visit.machine)
        for path, text in visit.role.texts:
            put_file(target, str(VolumePath(path)), text.encode())
        assert visit.changed.child is not None
        child = visit.changed.child.model_copy(update={"texts": [path for path, _ in visit.role.texts]})
        visit.changed = visit.changed.model_copy(update={"child": child})

    def _end(self, visit: _Visit) -> SandboxState:
        child = visit.changed.child
        assert child is not None
        if visit.changed.origin == "context":
            self._pool.forget(visit.machine)
            visit.machine.changed = _with(visit.changed, child.model_copy(update={"cleanup": "shared"}))
            return "deleted"
        written, problem = self._promote(visit)
        self._pool.delete(visit.machine)
        cleanup = {"artifacts": written, "cleanup": "incomplete" if problem else "deleting", "cleanup_error": problem}
        child = child.model_copy(update=cleanup)
        visit.machine.changed = _with(visit.changed, child, problem and f"files were left behind: {problem}")
        return "deleted"

    def _promote(self, visit: _Visit) -> tuple[int, str]:
        """Copy what the child wrote in artifacts/ to artifacts/<child>/ of its parent; how many, and what was wrong."""
        parent, machine = visit.parent, visit.machine
        if self._client.is_closed or parent is None or not parent.is_alive:
            return 0, ""
        name = f"child-{machine.sandbox_id[:8]}"
        done: list[ArtifactWritten] = []
        problem = ""
        try:
            source, target = self._place(machine), self._place(parent)
            found, is_cut = list[Digest](), False
            if visit.given or machine.may_have_written:  # most children leave no file, and their parent waits
                found, is_cut = digests_below(source, "artifacts", MOST_OUT_FILES + len(visit.given))
            new = [one for one in found if visit.given.get(one.path) != one.sha256]
            if is_cut or len(new) > MOST_OUT_FILES or sum(one.bytes for one in new) > MOST_OUT_BYTES:
                problem = f"a child leaves at most {MOST_OUT_FILES} files and {MOST_OUT_BYTES:,} bytes"
            room = MOST_OUT_BYTES
            for one in new[:MOST_OUT_FILES]:
                if one.bytes > room:
                    continue
                data = content(source, one.path, one.bytes)
                room -= len(data)
                path = str(VolumePath(f"artifacts/{name}/{one.path.removeprefix('artifacts/')}"))
                put_file(target, path, data)
                if parent.artifacts is not None:
                    parent.artifacts[path] = sha256_of(data)
                done.append(
                    ArtifactWritten(path=path, bytes=len(data), sha256=sha256_of(data), origin=machine.sandbox_id)
                )
            if done or visit.given:
                put_file(target, f"meta/children/{name}.json", self._provenance(visit, done))
        except FleetError as err:
            problem = err.text
        for fact in done:
            if machine.tell is not None:
                machine.tell(fact)
        return len(done), problem

    def _provenance(self, visit: _Visit, done: list[ArtifactWritten]) -> bytes:
        return json.dumps({
            "child": visit.machine.sandbox_id, "parent": visit.parent and visit.parent.sandbox_id,
            "session": visit.role.session_id, "run": visit.role.run_id, "depth": visit.role.depth,
            "origin": visit.changed.origin,
            "inputs": [{"path": path, "sha256": sha256} for path, sha256 in visit.given.items()],
            "artifacts": [one.model_dump(include={"path", "bytes", "sha256"}) for one in done],
        }, indent=1).encode()  # fmt: skip


def _with(changed: SandboxChanged, child: ChildIsolation, reason: str = "") -> SandboxChanged:
    return changed.model_copy(update={"child": child, "reason": reason or changed.reason})
