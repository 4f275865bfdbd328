"""`fleet smoke`: one sandbox from its creation to its end, phase by phase, with what to do about a phase that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from fleet_rlm_jupyter.domain.errors import BadRequest, ErrorText, FleetError
from fleet_rlm_jupyter.domain.ports import Interpreter, Role, Workspace
from fleet_rlm_jupyter.domain.question import Phase
from fleet_rlm_jupyter.domain.session import new_id
from fleet_rlm_jupyter.sandbox.specs import NONE
from fleet_rlm_jupyter.verbs.house import House

PHASES = {
    "config": "`fleet doctor` shows every setting and where it comes from",
    "clone": "look at `git ls-remote URL`; docs/how-to/repositories.md says what is refused, and how private ones work",
    "create": "ask again; `fleet doctor` says how sandboxes are isolated here",
    "workspace": "ask again; if it stays, the sandbox lost files between two calls: look at the service's log",
    "state": "the REPL was replaced between two cells: raise sandbox.memory_mb, or look at the service's log",
    "callback": "calls from the sandbox do not come back: look at proxies and firewalls that cut WebSockets",
    "volume": "look at the volume at the service, or set sandbox.volume=none to do without",
    "clean-up": "delete the sandbox by hand where they are listed; it would stop by itself when it is idle",
}
"""Every phase, and the next step where the error itself names none."""

OF_A_REPOSITORY = ("clone", "workspace")
"""The phases that are only where a repository is named."""


SESSION = "smoke"
"""Whose folder of the volume is written to: always the same, so that there is only one."""

_COUNT = """
import os
links = lambda here, names: sum(os.path.islink(os.path.join(here, name)) for name in names)
print(sum(len(names) + links(here, folders) for here, folders, names in os.walk(folder)))
"""

GONE_SECONDS = 30
"""How long the service may take to delete a sandbox."""


class SmokeFailed(FleetError):
    """A phase got another result than it must."""

    code = "smoke_failed"


def smoke(house: House, repo_url: str | None = None, repo_ref: str | None = None) -> Iterator[Phase]:
    """Run the phases and tell of each as it ends. After a failure only the clean-up of what was made still runs.

    With `repo_url` its files at `repo_ref` are fetched, and looked for in the sandbox. Raises BadRequest at once.
    """
    if repo_ref is not None and repo_url is None:
        raise BadRequest("repo_ref is given without repo_url", "name the repository, too")
    return _Smoke(house, repo_url, repo_ref or "").phases()


class _Smoke:
    def __init__(self, house: House, repo_url: str | None, repo_ref: str) -> None:
        self._house = house
        self._url, self._ref = repo_url, repo_ref
        self._workspace: Workspace | None = None
        self._repl: Interpreter | None = None
        self._steps: dict[str, Callable[[], str]] = {
            "config": self._config,
            "clone": self._clone,
            "create": self._create,
            "workspace": self._look,
            "state": self._state,
            "callback": self._callback,
            "volume": self._volume,
            "clean-up": self._clean_up,
        }

    def phases(self) -> Iterator[Phase]:
        has_failed = False
        try:
            for name, step in self._steps.items():
                if self._url is None and name in OF_A_REPOSITORY:
                    continue
                is_due = self._sandbox_id if name == "clean-up" else not has_failed
                phase = _timed(name, step) if is_due else Phase(name, "skipped", 0, "not reached")
                has_failed = has_failed or phase.status == "failed"
                yield phase
        finally:
            self._shut_down()  # also when whoever reads the phases stops in the middle

    def _config(self) -> str:
        settings = self._house.settings
        isolation = self._house.sandboxes(trusted_code=True).isolation
        where = f" at {settings.daytona.api_url}" if isolation.level == "remote" else ""
        return f"{isolation.label}{where}"

    def _clone(self) -> str:
        assert self._url is not None
        self._workspace = found = self._house.repository(self._url, self._ref)
        return f"{found.source} {found.ref or 'HEAD'} is commit {found.commit[:12]}, {found.files:,} files"

    def _create(self) -> str:
        role = Role(new_id("s"), new_id("r"), "smoke", 1, workspace=self._workspace)
        made = self._house.sandboxes(trusted_code=True).open(role)
        self._repl = made
        made.start()
        return f"sandbox {made.sandbox_id}"

    def _look(self) -> str:
        assert self._workspace is not None
        said = self._ran(_COUNT, folder=self._workspace.path)
        _expect(f"the count of files in {self._workspace.path}", said, str(self._workspace.files))
        return f"{said} files are in {self._workspace.path} of the sandbox"

    def _state(self) -> str:
        token = new_id("t")
        self._ran("kept = given", given=token)
        _expect("the second cell", self._ran("print(kept)"), token)
        return "a variable of the first cell was there in the second"

    def _callback(self) -> str:
        asked: list[str] = []

        def answer(question: str) -> str:
            asked.append(question)
            return question[::-1]

        assert self._repl is not None
        self._repl.tools["smoke_answer"] = answer
        _expect("the callback", self._ran("print(smoke_answer('abc') + smoke_answer(question='def'))"), "cbafed")
        return f"{len(asked)} calls from the sandbox were answered here"

    def _volume(self) -> str:
        wanted = self._house.settings.sandbox.volume
        if wanted == NONE:
            return "none is wanted (sandbox.volume)"
        files = self._house.sandboxes(trusted_code=True).files(SESSION)
        path, token = f"buffers/{new_id('t')}", new_id("t").encode()
        files.write(path, token)
        try:
            _expect("the file", files.read(path).decode(errors="replace"), token.decode())
        finally:
            files.delete(path)
        if path in [entry.path for entry in files.tree("buffers").entries]:
            raise SmokeFailed(f"{path} was deleted and is still there")
        return f"a file on the volume {wanted} was written, read and deleted"

    def _clean_up(self) -> str:
        sandbox_id = self._sandbox_id
        self._shut_down()
        if not self._house.sandboxes(trusted_code=True).is_gone(sandbox_id, GONE_SECONDS):
            raise SmokeFailed(f"sandbox {sandbox_id} is still there {GONE_SECONDS} seconds after it was deleted")
        return f"sandbox {sandbox_id} is gone, says the service"

    @property
    def _sandbox_id(self) -> str:
        return self._repl.sandbox_id if self._repl else ""

    def _ran(self, code: str, **variables: str) -> str:
        assert self._repl is not None
        return str(self._repl.execute(code, variables) or "").strip()

    def _shut_down(self) -> None:
        repl, self._repl = self._repl, None
        if repl is not None:
            repl.shutdown()


def _timed(name: str, step: Callable[[], str]) -> Phase:
    begun = time.monotonic()
    try:
        text = step()
    except FleetError as err:
        said = ErrorText.of(err)
        error = said.model_copy(update={"hint": said.hint or PHASES[name]})
    except (RuntimeError, SyntaxError) as err:  # DSPy's, from the interpreter
        error = ErrorText(code="sandbox_code_failed", text=str(err), hint=PHASES[name])
    else:
        return Phase(name, "passed", time.monotonic() - begun, text)
    return Phase(name, "failed", time.monotonic() - begun, error.text, error)


def _expect(what: str, got: str, wanted: str) -> None:
    if got != wanted:
        raise SmokeFailed(f"{what} said {got[:200]!r} instead of {wanted!r}")
