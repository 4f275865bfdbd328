"""Ours beside what else runs code for a model: DSPy's interpreters, Monty, and the REPL of `rlms`; in one run.

`python peers.py FOLDER` installs the peers from PyPI into FOLDER (in no extra: only this bench needs them). What cannot
be had on this machine is said with the reason. The peers differ in what they promise: Monty is an interpreter of a part
of Python, LocalInterpreter and rlms run code as the user who asks.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import dspy
from peer_packages import install, python_interpreter
from table import load, row, seconds, timed

from fleet_rlm_jupyter.domain.ports import Role
from fleet_rlm_jupyter.sandbox.daytona import DaytonaSandboxes
from fleet_rlm_jupyter.settings import Settings
from fleet_rlm_jupyter.testing import ScriptedEngine, UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.workbench import Question

MB = 1_000_000
NONE, TOO_MUCH = "has none", "not asked"
FAN = "begun = time.perf_counter()\nfound = {}\ntaken = time.perf_counter() - begun\nassert len(found) == {}"
BATCH = "import time\n" + FAN.format("llm_query_batched(prompts=[str(i) for i in range(16)])", 16)
CHILDREN = "import time\n" + FAN.format("{}(prompts=[f'part {{i}}' for i in range(8)])", 8)


class Runs(Protocol):
    """A peer with its REPL started: runs code over a variable `context`, and `echo` is a tool of the host."""

    def run(self, code: str, context: str | None = None) -> object: ...
    def close(self) -> None: ...


class OfDspy:
    """Anything that keeps DSPy's interpreter protocol."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.interpreter = make()
        self.interpreter.tools["echo"] = echo

    def run(self, code: str, context: str | None = None) -> object:
        return self.interpreter.execute(code, {} if context is None else {"context": context})

    def close(self) -> None:
        self.interpreter.shutdown()


class OfMonty:
    def __init__(self) -> None:
        import pydantic_monty

        self.pool = pydantic_monty.Monty()
        self.session = self.pool.__enter__().checkout().__enter__()

    def run(self, code: str, context: str | None = None) -> object:
        given = None if context is None else {"context": context}
        return self.session.feed_run(code, inputs=given, external_lookup={"echo": echo})

    def close(self) -> None:
        self.pool.__exit__(None, None, None)


class OfRlms:
    """Its local REPL takes the context once, from a file; a changed one would be a new REPL."""

    def __init__(self) -> None:
        from rlm.environments.local_repl import LocalREPL

        self.repl = LocalREPL(custom_tools={"echo": echo})

    def run(self, code: str, context: str | None = None) -> object:
        if context is not None and "context_0" not in self.repl.locals:
            self.repl.load_context(context)
        result = self.repl.execute_code(code)
        if result.stderr:
            raise RuntimeError(result.stderr)
        return result.stdout

    def close(self) -> None:
        self.repl.cleanup()


def echo(text: str) -> str:
    return text


def main() -> None:
    install(Path(sys.argv[1]))
    home = DaytonaSandboxes(Settings())
    role = Role("s-bench", "r-bench", "bench", 1)
    peers: dict[str, Callable[[], Runs]] = {
        "ours": lambda: OfDspy(lambda: home.open(role)),
        "LocalInterpreter": lambda: OfDspy(dspy.LocalInterpreter),
        "PythonInterpreter": lambda: OfDspy(python_interpreter),
        "Monty": OfMonty,
        "rlms": OfRlms,
    }
    print(f"\nbeside its peers ({load()}; ours: {home.isolation.label})")
    try:
        there = {name: make for name, make in peers.items() if works(name, make)}
        row("figure", *there)
        for name, measure in FIGURES.items():
            row(name, *(TOO_MUCH if name[:6] == "100 MB" and peer == "PythonInterpreter" else cell(measure, make)
                for peer, make in there.items()))  # fmt: skip
        for name, fans in fans_over(home).items():
            row(name, *(cell(lambda _, ask=fans[peer]: [ask() for _ in range(3)], make) if peer in fans else NONE
                for peer, make in there.items()))  # fmt: skip
        print(f"({TOO_MUCH}: 100 MB cost PythonInterpreter about 15 s of CPU a step and 5 GB of memory)")
        print("(at best 0.5 s and 1 s; the children of LocalInterpreter are ours in it: dspy.RLM has none)")
    finally:
        home.close()
    print(load())


def works(name: str, make: Callable[[], Runs]) -> bool:
    """Whether a peer runs here; the last line of why not is printed."""
    try:
        runs = make()
        runs.run("1 + 1")
        runs.close()
    except Exception as err:
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        print(f"{name} does not run here: {type(err).__name__}: {' | '.join(lines[:3])[:300]}")
        return False
    return True


def cell(measure: Callable[[Callable[[], Runs]], list[float]], make: Callable[[], Runs]) -> str:
    try:
        return seconds(measure(make))
    except Exception as err:
        return type(err).__name__


def start(make: Callable[[], Runs]) -> list[float]:
    def once() -> None:
        runs = make()
        runs.run("1")
        runs.close()

    return timed(once, 5)


def again(code: str, times: int, context: str | None = None) -> Callable[[Callable[[], Runs]], list[float]]:
    """How long a cell takes once the REPL has run it before."""

    def measure(make: Callable[[], Runs]) -> list[float]:
        runs = make()
        try:
            runs.run(code, context)
            return timed(lambda: runs.run(code, context), times)
        finally:
            runs.close()

    return measure


def first(context: str) -> Callable[[Callable[[], Runs]], list[float]]:
    """How long the first cell over a context takes in a REPL that is up."""

    def measure(make: Callable[[], Runs]) -> list[float]:
        taken: list[float] = []
        for _ in range(3):
            runs = make()
            runs.run("1")
            taken += timed(lambda runs=runs: runs.run("len(context)", context), 1)
            runs.close()
        return taken

    return measure


def fans_over(home: Any) -> dict[str, dict[str, Callable[[], float]]]:
    """What asks many at once, where a peer has such a thing: seconds as the cell that asked measured them."""
    return {
        "16 × 0.5 s llm_query_batched": {
            "ours": lambda: in_our_tree(answers, home),
            "LocalInterpreter": lambda: in_dspys_rlm(dspy.LocalInterpreter),
            "PythonInterpreter": lambda: in_dspys_rlm(python_interpreter),
            "rlms": lambda: in_rlms(BATCH),
        },
        "8 children × 0.5 s, 4 at once": {
            "ours": lambda: in_our_tree(children, home),
            "LocalInterpreter": lambda: in_our_tree(children, UnisolatedSandboxes()),
            "rlms": lambda: in_rlms(CHILDREN.format("rlm_query_batched")),
        },
    }


def answers(prompt: str) -> str:
    """A model that takes half a second for each of the sixteen, and none for its own steps."""
    if "variables_info" in prompt:
        return code(f"{BATCH}\nSUBMIT(answer=str(taken))")
    time.sleep(0.5)
    return "x"


def children(prompt: str) -> str:
    """A model that takes half a second for the one step of each child."""
    if "the whole" in prompt:
        return code(f"{CHILDREN.format('sub_rlm_batched')}\nSUBMIT(answer=str(taken))")
    time.sleep(0.5)
    return code("SUBMIT(answer='x')")


def in_our_tree(script: Callable[[str], str], home: Any) -> float:
    bench = scripted_workbench(ScriptedEngine(script), home=home)
    run = bench.ask(Question("the whole", context="x", mode="rlm_only")).result(60)
    return float(run.answer or "nan")


def in_dspys_rlm(make: Callable[[], Any]) -> float:
    lm = dspy.LM("scripted/bench", engine=ScriptedEngine(answers), cache=False)
    with dspy.context(lm=lm, trace=None, max_history_size=0):
        rlm = dspy.RLM("context, question -> answer", interpreter_factory=make)
        return float(rlm(context="x", question="the whole").answer)


def in_rlms(cell: str) -> float:
    """Its own fan-out of a stub model, or of children that have a REPL and ask that model once."""
    from rlm.clients.base_lm import BaseLM
    from rlm.core.lm_handler import LMHandler
    from rlm.core.types import ModelUsageSummary, RLMChatCompletion, UsageSummary
    from rlm.environments.local_repl import LocalREPL

    class Slow(BaseLM):
        def completion(self, prompt: Any) -> str:
            time.sleep(0.5)
            return "x"

        async def acompletion(self, prompt: Any) -> str:
            await asyncio.sleep(0.5)
            return "x"

        def get_usage_summary(self) -> Any:
            return UsageSummary({"slow": self.get_last_usage()})

        def get_last_usage(self) -> Any:
            return ModelUsageSummary(1, 0, 0)

    model = Slow("slow")

    def child(prompt: str, name: str | None = None) -> Any:
        repl = LocalREPL(context_payload=prompt)
        answer = model.completion(prompt)
        repl.execute_code("1")
        repl.cleanup()
        return RLMChatCompletion("slow", prompt, answer, model.get_usage_summary(), 0.5)

    with LMHandler(model) as handler:
        repl = LocalREPL(lm_handler_address=handler.address, subcall_fn=child, max_concurrent_subcalls=4)
        result = repl.execute_code(f"{cell}\nassert set(found) == {{'x'}}, found\nprint(taken)")
        repl.cleanup()
    return float(result.stdout or result.stderr)


FIGURES = {
    "start to first cell": start,
    "trivial cell": again("1", 100),
    "callback to the host": again("echo(text='x')", 100),
    "10 MB text, first cell": first("x" * (10 * MB)),
    "10 MB text, further cells": again("len(context)", 5, "x" * (10 * MB)),
    "100 MB text, first cell": first("x" * (100 * MB)),
    "100 MB text, further cells": again("len(context)", 3, "x" * (100 * MB)),
}


if __name__ == "__main__":
    main()
