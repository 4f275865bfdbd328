"""`import dspy` inside the sandbox, where the setting allows it: what generated code builds there has our limits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import SandboxSettings, Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench
from fleet_rlm_jupyter.workbench import Question

SECONDS = 60
ANSWER = "[[ ## answer ## ]]\nfrom a model\n\n[[ ## completed ## ]]"
NESTED = "import dspy\ninner = dspy.RLM('question -> answer')\n"


@pytest.fixture(scope="module")
def home() -> Iterator[DaytonaSandboxes]:
    made = DaytonaSandboxes(Settings(sandbox=SandboxSettings(facade=True, allow_unisolated=True)))
    yield made
    made.close()


def run(home: DaytonaSandboxes, script: object, **limits: int):
    engine = ScriptedEngine(script)
    live = scripted_workbench(engine, home=home, **limits).ask(Question("the whole", context="x", mode="rlm_only"))
    result = live.result(SECONDS)
    opened = [event.fact for event in live.trace.events if event.fact.type == "sandbox.changed"]
    lives = list(
        itertools.accumulate(
            {"ready": 1, "reused": 1, "deleted": -1, "detached": -1}.get(fact.state, 0) for fact in opened
        )
    )
    assert max(lives) <= limits.get("sandboxes", 8)
    assert lives[-1] == 0
    return result, live.tree(), engine


def test_generated_code_can_build_a_predictor_and_the_prompt_offers_it(home):
    def script(prompt: str) -> str:
        if "variables_info" not in prompt:
            return ANSWER
        return code("import dspy\nSUBMIT(answer=dspy.Predict('question -> answer')(question='who?').answer)")

    result, _, engine = run(home, script)
    assert result.answer == "from a model"
    assert "dspy.Predict" in engine.prompts[0]


def test_an_rlm_that_generated_code_builds_counts_its_depth_and_is_refused_below_the_limit(home):
    def script(prompt: str) -> str:
        if "the whole" in prompt:
            return code(f"{NESTED}SUBMIT(answer=inner(question='level two').answer)")
        return code(
            f"{NESTED}try:\n    said = inner(question='level three').answer\n"
            "except Exception as err:\n    said = str(err)\nSUBMIT(answer=said)"
        )

    result, tree, engine = run(home, script, depth=2)
    assert result.status == "done"
    assert "depth 2 is reached" in str(result.answer)
    assert engine.calls == 2
    refused = [call for call in tree.calls.values() if call.kind == "rlm" and call.depth > 2]
    assert len(refused) == 1
    assert "depth 2 is reached" in str(refused[0].error)


def test_predictors_that_generated_code_builds_cannot_overrun_the_budget(home):
    def script(prompt: str) -> str:
        if "variables_info" not in prompt:
            return ANSWER
        loop = "for n in range(100):\n    try: ask(question=str(n))\n    except Exception: pass\n"
        return code(f"import dspy\nask = dspy.Predict('question -> answer')\n{loop}SUBMIT(answer='all')")

    result, _, engine = run(home, script, calls=5)
    assert result.status == "over_budget"
    assert engine.calls <= 5


def test_sandboxes_of_rlms_that_generated_code_builds_are_counted(home):
    def script(prompt: str) -> str:
        if "the whole" in prompt:
            return code(
                "import dspy\nfrom concurrent.futures import ThreadPoolExecutor\n"
                "def one(n):\n    try: return dspy.RLM('question -> answer')(question=f'part {n}').answer\n"
                "    except Exception as err: return str(err)\n"
                "with ThreadPoolExecutor(6) as pool: said = list(pool.map(one, range(6)))\n"
                "SUBMIT(answer=' | '.join(said))"
            )
        return code("SUBMIT(answer='fine')")

    result, _, _ = run(home, script, depth=2, sandboxes=3)
    assert result.status == "done"
    assert "fine" in str(result.answer)


def test_generated_code_can_set_neither_key_nor_address_of_a_model(home):
    def script(prompt: str) -> str:
        if "the whole" in prompt:
            return code(
                "import dspy\ntry: said = dspy.Predict('question -> answer', api_base='http://127.0.0.1:9')(question='x').answer\n"
                "except Exception as err: said = str(err)\nSUBMIT(answer=said)"
            )
        return ANSWER

    result, _, _ = run(home, script)
    assert "may not set LM option" in str(result.answer)
