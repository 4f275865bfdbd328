"""The model when there is none: an engine behind `dspy.LM` that drives the real RLM loop by recipes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import dspy
from dspy.lm15 import InvalidRequestError, Message, Request, Response, TextPart, Usage, response_to_events

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.engine.recipes import cells
from fleet_rlm_jupyter.engine.recipes.inventory import PYTHON_UNITS
from fleet_rlm_jupyter.engine.recipes.passages import TEXT_UNITS
from fleet_rlm_jupyter.engine.recipes.plan import RECIPES, RecipePlan, compose, parse_plan
from fleet_rlm_jupyter.engine.recipes.profile import Profile
from fleet_rlm_jupyter.engine.recipes.recheck import recheck
from fleet_rlm_jupyter.engine.recipes.records import RECORD_KINDS
from fleet_rlm_jupyter.engine.recipes.understand import Abstention, understand

__all__ = [
    "NOT_UNDERSTOOD",
    "OFFLINE_LABEL",
    "OFFLINE_MODEL",
    "RECIPES",
    "RecipeEngine",
    "RecipePlan",
    "compose",
    "parse_plan",
    "recipes_lm",
]

OFFLINE_MODEL = "offline/recipes"
OFFLINE_LABEL = "offline recipes (not a language model)"
NOT_UNDERSTOOD = "not understood: pick a recipe"
MANY_CHARS, MANY_FILES, MOST_PARTS = 1_000_000, 200, 8


def recipes_lm() -> dspy.LM:
    """A `dspy.LM` on the recipes. It has no tokens and no price, so none are reported."""
    return dspy.LM(OFFLINE_MODEL, engine=RecipeEngine(), cache=False)


class RecipeEngine:
    """Answers from the prompt alone: it holds nothing between calls and never sees the context itself."""

    def complete(self, request: Request) -> Response:
        """The next step of an RLM, its last words, or yes/no about an excerpt. Raises InvalidRequestError otherwise."""
        prompt = request.messages[-1].text or ""
        fields = sections(prompt)
        system = _system(request)
        if "repl_history" not in fields:
            text = recheck(prompt) or f"{NOT_UNDERSTOOD} ({OFFLINE_LABEL})"
        elif "iteration" in fields:
            text = _action(Loop.of(fields, system))
        else:
            text = _last_words(Loop.of(fields, system))
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=OFFLINE_LABEL, message=message, finish_reason="stop", usage=Usage())

    def stream(self, request: Request) -> Iterator[object]:
        """The same answer, as one chunk."""
        return response_to_events(self.complete(request))

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What the prompt shows of an RLM's loop."""

    question_preview: str
    outputs: tuple[str, ...]
    output_fields: tuple[str, ...]
    has_children: bool

    @classmethod
    def of(cls, fields: Mapping[str, str], system: str) -> Loop:
        submit = re.search(r"`SUBMIT\(([\w, ]*)\)`", system)
        names = (
            submit[1].split(", ")
            if submit
            else re.findall(r"^\d+\. `(\w+)` \(", system.partition("output fields")[2], re.M)
        )
        return cls(
            question_preview=preview("question", fields.get("variables_info", "")),
            outputs=tuple(outputs(fields["repl_history"])),
            output_fields=tuple(names),
            has_children="`sub_rlm_batched(" in system,
        )

    def printed(self, mark: str) -> list[dict[str, object]]:
        """The JSON objects that our cells printed after `mark`, one per output at most."""
        shown = [_printed(mark, output) for output in self.outputs]
        return [value for value in shown if value is not None]


def sections(prompt: str) -> dict[str, str]:
    """The fields of a ChatAdapter prompt. Marks inside values are indented or escaped, so they do not count."""
    parts = re.split(r"^\[\[ ## (\w+) ## \]\]$", prompt, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def outputs(history: str) -> list[str]:
    """What each step printed."""
    steps = re.split(r"^=== Step \d+ ===$", history, flags=re.MULTILINE)[1:]
    return [re.split(r"^Output \([\d,]+ chars\):$", step, maxsplit=1, flags=re.MULTILINE)[-1].strip() for step in steps]


def preview(name: str, variables_info: str) -> str:
    """The preview of a variable, as far as the prompt shows it. The last one counts: texts shown before it may lie."""
    _, mark, after = variables_info.rpartition(f"Variable: `{name}` (access it in your code)")
    found = re.search(r"Preview:\n\s*```\n(.*)\n\s*```", after, re.DOTALL)
    return re.sub(r"^    ", "", found[1], flags=re.MULTILINE) if mark and found else ""


def _printed(mark: str, output: str) -> dict[str, object] | None:
    for line in reversed(output.split("\n")):
        if line.startswith(mark + " {"):
            try:
                return cast("dict[str, object]", json.loads(line[len(mark) + 1 :]))
            except ValueError:
                return None
    return None


def _action(loop: Loop) -> str:
    reasoning, code = _next_step(loop)
    return f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n[[ ## completed ## ]]"


def _next_step(loop: Loop) -> tuple[str, str]:
    part = _part_plan(loop.question_preview)
    if part:
        return _part_step(loop, part)
    profiles = loop.printed("PROFILE")
    if not profiles:
        _give_up_after(loop, 2)
        return "First I look at what the context is.", cells.look_cell()
    profile = cast("Profile", profiles[0])
    plan = understand(profile["question"], profile)
    if isinstance(plan, Abstention):
        _give_up_after(loop, 3)
        return f"No recipe covers the whole question: {plan.reason}.", _abstain_cell(loop, plan, profile)
    if plan.part:
        return _part_step(loop, plan)
    result = _printed("RESULT", loop.outputs[-1]) if loop.outputs else None
    if result and plan.slots.get("strict") == "yes" and not result["evidence"] and not parse_plan(profile["question"]):
        why = Abstention("no passage of the text has all the words of the question")
        return "Nothing can be quoted, so nothing is answered.", _abstain_cell(loop, why, profile)
    if result:
        return "The result is there; I submit it.", _submit(loop, plan, "answer", "evidence")
    is_retry = _printed("PROFILE", loop.outputs[-1]) is None
    if is_retry:
        _give_up_after(loop, 3)
        return f"The step did not work ({_last(loop, 200)}). I do it once more, without children.", cells.work_cell(
            plan, 0, True
        )
    parts = _part_count(plan, profile) if loop.has_children else 0
    shown = ", ".join(f"{name}={value}" for name, value in plan.slots.items()) or "no slots"
    how = f"in {parts} parts, a child run for each" if parts else "here"
    return f"The question is recipe {plan.recipe} with {shown}. I run it {how}.", cells.work_cell(plan, parts, False)


def _part_plan(question: str) -> RecipePlan | None:
    """The plan of a child, whose question is in the canonical form with a part."""
    try:
        plan = parse_plan(question)
    except BadRequest:
        return None
    return plan if plan and plan.part else None


def _part_step(loop: Loop, plan: RecipePlan) -> tuple[str, str]:
    if loop.printed("PART"):
        _give_up_after(loop, 4)
        return "This part is done; I submit its figures for the parent to merge.", _submit(loop, plan, "partial", "[]")
    _give_up_after(loop, 3)
    return f"This is part {plan.part} of a larger question: recipe {plan.recipe}.", cells.part_cell(plan)


def _part_count(plan: RecipePlan, profile: Profile) -> int:
    """In how many parts the work is cut: 0 when it is small, else one per million characters, 2 to 8."""
    if "parts" in plan.slots:
        return int(plan.slots["parts"])
    kinds, unit = profile["kinds"], plan.slots.get("unit", "records")
    is_python = RECIPES[plan.recipe].reads == "python" or unit in PYTHON_UNITS
    wanted = ("python",) if is_python else RECORD_KINDS
    if unit in ("lines", *TEXT_UNITS) or RECIPES[plan.recipe].reads == "text":
        wanted = tuple(kinds)
    files = sum(kinds[kind][0] for kind in wanted if kind in kinds)
    chars = sum(kinds[kind][1] for kind in wanted if kind in kinds)
    if chars <= MANY_CHARS and files <= MANY_FILES:
        return 0
    return min(MOST_PARTS, max(2, chars // MANY_CHARS))


def _submit(loop: Loop, plan: RecipePlan, answer: str, evidence: str) -> str:
    values = {"answer": answer, "recipe": ascii(plan.recipe), "slots": "slots", "evidence": evidence}
    return cells.submit_cell("What the step before has printed is complete.", loop.output_fields, values)


def _abstain_cell(loop: Loop, why: Abstention, profile: Profile) -> str:
    values = {"answer": cells.literal(not_understood(why, profile)), "recipe": "''", "slots": "{}", "evidence": "[]"}
    return cells.submit_cell("No recipe covers the whole question, so none is run.", loop.output_fields, values)


def not_understood(why: Abstention, profile: Profile) -> str:
    """The words of an abstention: why, what would make it clear, and the recipes that fit these data."""
    lines = [f"{NOT_UNDERSTOOD}. Reason: {why.reason}."]
    if why.tries:
        lines.append("Slots to try: " + "; ".join(dict.fromkeys(why.tries)) + ".")
    kinds = profile["kinds"]
    has = {"python": "python" in kinds, "records": any(kind in RECORD_KINDS for kind in kinds), "text": True}
    fitting = [recipe for recipe in RECIPES.values() if has[recipe.reads] or recipe.name == "count"]
    lines.append('Put text that is to be found as it stands in "quotes". Recipes that fit the context:')
    lines += [f"- {recipe.name}: {recipe.description}. E.g. {recipe.example}" for recipe in fitting]
    if profile["fields"]:
        lines.append("Fields: " + ", ".join(list(profile["fields"])[:30]) + ".")
    if "log" in profile["kinds"] or "kv" in profile["kinds"]:
        lines.append("The words of a log line are fields too: word1, word2, …")
    return "\n".join(lines)


def _give_up_after(loop: Loop, steps: int) -> None:
    """Fail with what was seen, rather than go on or make something up."""
    if len(loop.outputs) >= steps:
        raise InvalidRequestError(f"offline recipes could not finish; the REPL said: {_last(loop, 500)}")


def _last(loop: Loop, most: int) -> str:
    text = loop.outputs[-1] if loop.outputs else ""
    return text if len(text) <= most else "…" + text[-most:]


def _last_words(loop: Loop) -> str:
    """The extract step: the steps ran out, so only a result that was already printed is given."""
    results = loop.printed("RESULT")
    if not results:
        raise InvalidRequestError(
            f"offline recipes could not finish in the steps allowed; the REPL said: {_last(loop, 500)}"
        )
    answer = f"{results[-1]['answer']} (The steps ran out before the evidence could be handed over.)"
    profile = cast("Profile", loop.printed("PROFILE")[0])
    plan = understand(profile["question"], profile)
    known = {"answer": answer, "recipe": "", "slots": "{}", "evidence": "[]"}
    if isinstance(plan, RecipePlan):
        known.update(recipe=plan.recipe, slots=json.dumps(dict(plan.slots)))
    return _fields(known, loop.output_fields)


def _fields(values: Mapping[str, str], names: Iterable[str]) -> str:
    shown = "\n\n".join(f"[[ ## {name} ## ]]\n{values.get(name, '')}" for name in names)
    return shown + "\n\n[[ ## completed ## ]]"


def _system(request: Request) -> str:
    if request.system is None or isinstance(request.system, str):
        return request.system or ""
    return "".join(part.text for part in request.system if isinstance(part, TextPart))
