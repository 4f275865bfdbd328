"""`bench.programs`: what can be run by its name, in versions of which one is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dspy

from fleet_rlm_jupyter.domain.dataset import checked_name
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.optimization import Candidate
from fleet_rlm_jupyter.domain.program import Definition, Origin, ProgramInfo, parted
from fleet_rlm_jupyter.engine.saved import definition_of, improved, normal
from fleet_rlm_jupyter.verbs.house import House

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.programs import StoredPrograms

BUILT_IN = {
    "ask": ProgramInfo(
        name="ask",
        description="answers a question over a context: a plain call where that is small, else an RLM",
        inputs=["context", "question"],
        outputs=["answer"],
    )
}


class Programs:
    """The programs of one user, and those that come with the package.

    Raises NoSuchProgram for one of another user as for none, and StoreFailed.
    """

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(self) -> list[ProgramInfo]:
        """Of each the version that runs by its name."""
        return [*BUILT_IN.values(), *self._stored().list()]

    def versions(self, name: str) -> list[ProgramInfo]:
        """The newest first."""
        return [BUILT_IN[name]] if name in BUILT_IN else self._stored().versions(name)

    def get(self, name: str) -> ProgramInfo:
        """The version that runs by that name; `name@2` is version 2."""
        return BUILT_IN[name] if name in BUILT_IN else self._stored().get(*parted(name))[0]

    def definition(self, name: str) -> Definition:
        """What it is made of, by `name` or `name@version`. Raises BadRequest for one that comes with the package."""
        if name in BUILT_IN:
            raise BadRequest(f"{name} comes with the package", "save a program of your own: its state can be seen")
        return self._stored().get(*parted(name))[1]

    def save(self, name: str, program: dspy.Module | Definition) -> ProgramInfo:
        """Keep a dspy.Predict, dspy.ChainOfThought or dspy.RLM as the next version of `name`.

        The first version is approved with that, every other waits for `approve`. Raises BadRequest.
        """
        checked_name(name)
        if name in BUILT_IN:
            raise BadRequest(f"{name} comes with the package", "choose another name")
        definition = normal(program) if isinstance(program, Definition) else definition_of(program)
        return self._keep(name, definition)

    def found(self, program: str, dataset: str, run_id: str, found: Candidate) -> ProgramInfo:
        """Keep what a run found on a dataset, made from a version of a program, as the next version of that program."""
        parent, definition = self._stored().get(*parted(program))
        made = Origin(parent=parent.version, scores=found.scores, dataset=dataset, run_id=run_id, candidate=found.name)
        return self._keep(parent.name, improved(definition, found.instructions), made)

    def approve(self, name: str, version: int) -> ProgramInfo:
        """From now on that version runs by the name alone; an earlier one may be approved again."""
        return self._stored().approve(name, version)

    def _keep(self, name: str, definition: Definition, origin: Origin | None = None) -> ProgramInfo:
        masked = self._house.mask.everywhere(definition.model_dump())
        return self._stored().save(name, Definition.model_validate(masked), origin)

    def _stored(self) -> StoredPrograms:
        return self._house.store().programs(self._owner)
