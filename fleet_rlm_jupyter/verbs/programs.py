"""`bench.programs`: what can be run by its name."""

from __future__ import annotations

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.domain.shown import ProgramInfo

_BUILT_IN = (
    ProgramInfo(
        name="ask",
        description="answers a question over a context: a plain call where that is small, else an RLM",
        inputs=["context", "question"],
        outputs=["answer"],
    ),
)


class Programs:
    """The programs of this Workbench: those that come with the package."""

    def list(self) -> list[ProgramInfo]:
        return list(_BUILT_IN)

    def get(self, name: str) -> ProgramInfo:
        """Raises BadRequest for a name that is none."""
        for program in _BUILT_IN:
            if program.name == name:
                return program
        known = ", ".join(program.name for program in _BUILT_IN)
        raise BadRequest(f"there is no program {name}", f"it is one of {known}, or a dspy.Module")
