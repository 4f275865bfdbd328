"""From a question and a profile to a plan, or an abstention. Every word must be accounted for; nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.recipes.grammar import Unclear, records_plan
from fleet_rlm_jupyter.engine.recipes.inventory import PYTHON_UNITS
from fleet_rlm_jupyter.engine.recipes.passages import TEXT_UNITS
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan, checked, parse_plan
from fleet_rlm_jupyter.engine.recipes.profile import Profile
from fleet_rlm_jupyter.engine.recipes.python_words import python_plan
from fleet_rlm_jupyter.engine.recipes.records import RECORD_KINDS
from fleet_rlm_jupyter.engine.recipes.text_words import entry_plan, fact_plan, text_plan


@dataclass(frozen=True, slots=True)
class Abstention:
    """Why no recipe is used. `tries` are slots that would make it clear."""

    reason: str
    tries: tuple[str, ...] = ()


def understand(question: str, profile: Profile) -> RecipePlan | Abstention:
    """The one recipe that the whole question asks for, or why there is none."""
    try:
        plan = parse_plan(question)
        if plan is None:
            if profile["question_chars"] > len(question):
                return Abstention("the question is too long")
            plan = checked(_free_words(question, profile))
            if _reads_little(plan, profile):
                return Abstention(
                    "most of the context is no log, key=value, CSV or JSON lines", (f"recipe {plan.recipe}",)
                )
    except BadRequest as err:
        return Abstention(str(err))
    except Unclear as err:
        return Abstention(err.reason, err.tries)
    return _missing(plan, profile) or plan


def _free_words(question: str, profile: Profile) -> RecipePlan:
    """The plan of an ordinary question: about Python sources, about records, else about a text. Raises Unclear."""
    plan = python_plan(question) if "python" in profile["kinds"] else None
    if plan:
        return plan
    has_records = any(kind in RECORD_KINDS for kind in profile["kinds"])
    is_prose = profile["kinds"].get("text", [0, 0])[1] * 2 > profile["chars"]
    if is_prose:
        found = text_plan(question) or (None if has_records else fact_plan(question))
        if found:
            return found
    try:
        return records_plan(question, profile)
    except Unclear as err:
        found = text_plan(question)
        if found and found.recipe == "occurrences":
            return found
        if "python" not in profile["kinds"] and python_plan(question):
            raise Unclear("the context has no Python files") from err
        if "log" in profile["kinds"] and (entry := entry_plan(question)):
            return entry
        raise err


def _missing(plan: RecipePlan, profile: Profile) -> Abstention | None:
    """An abstention when the context has nothing that the recipe reads."""
    unit, reads = plan.slots.get("unit", "records"), RECIPES[plan.recipe].reads
    if reads == "python" or unit in PYTHON_UNITS:
        return None if "python" in profile["kinds"] else Abstention("the context has no Python files")
    if reads == "text" or unit != "records" or any(kind in RECORD_KINDS for kind in profile["kinds"]):
        return None
    return Abstention("the context has no records: no log, key=value, CSV or JSON lines")


def _reads_little(plan: RecipePlan, profile: Profile) -> bool:
    """Whether a plan taken from free words would rest on a few files beside the point."""
    if RECIPES[plan.recipe].reads != "records" or plan.slots.get("unit", "records") in (
        "lines",
        *TEXT_UNITS,
        *PYTHON_UNITS,
    ):
        return False
    read = sum(chars for kind, (_, chars) in profile["kinds"].items() if kind in RECORD_KINDS)
    return 0 < 2 * read < profile["chars"]
