"""DSPy's `CodeInterpreter` in a sandbox: inputs sent once, tools bound, output bounded, errors by who can mend them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import keyword
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

from dspy.primitives.code_interpreter import CodeExecutionError, CodeInterpreterError, FinalOutput
from dspy.utils.callback import with_callbacks

from fleet_rlm_jupyter.domain.errors import SandboxError, SandboxLost, during
from fleet_rlm_jupyter.domain.ports import EXECUTION_INSTRUCTIONS, OnOutput
from fleet_rlm_jupyter.sandbox.cell import Cell, Done
from fleet_rlm_jupyter.sandbox.inputs import Inputs
from fleet_rlm_jupyter.sandbox.kernel_link import KernelLink, Machine
from fleet_rlm_jupyter.settings import SandboxSettings

_FACADE = "__dspy_host_token"
_RLM_LOG = logging.getLogger("dspy.predict.rlm")
_RESERVED = {"SUBMIT", "__builtins__"}
_MOST_CODE = 400_000


class Opened(Machine, Protocol):
    """A started sandbox with its guest; `close` gives it back, twice is harmless. `wrote` is told changed artifacts."""

    sandbox_id: str
    link: KernelLink

    def wrote(self, paths: list[str]) -> None: ...
    def close(self) -> None: ...


def _is_news(record: logging.LogRecord) -> bool:
    """DSPy warns at each RLM that its facade was refused; that is a decision here, and no news."""
    return "sub-agents are unavailable" not in str(record.msg)


class SandboxInterpreter:
    """One REPL in one sandbox, which is made at `start` and ends with `shutdown`. Never restarted silently."""

    execution_instructions = EXECUTION_INSTRUCTIONS

    def __init__(
        self, opening: Callable[[], Opened], settings: SandboxSettings, on_output: OnOutput | None = None
    ) -> None:
        self.tools: dict[str, Callable[..., Any]] = {}
        self.output_fields: list[dict[str, Any]] | None = None
        self._opening = opening
        self._settings = settings
        self._on_output = on_output
        self._opened: Opened | None = None
        self._inputs: Inputs | None = None
        self._over: str = ""
        self._starting = threading.Lock()
        self._executing = threading.Lock()

    @property
    def sandbox_id(self) -> str:
        return self._opened.sandbox_id if self._opened else ""

    @with_callbacks
    def start(self) -> None:
        """Make the sandbox and its REPL; harmless when they are there. Raises SandboxUnavailable or BadSettings."""
        with self._starting:
            self._refuse_if_over()
            if self._opened is None:
                self._opened = self._opening()
                self._inputs = Inputs(self._opened, self._opened.link.libraries)

    @with_callbacks
    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run `code`; see domain.ports.Interpreter. One cell at a time: a tool must not call it again."""
        given = variables or {}
        with self._alone():
            if _FACADE in given and not self._settings.facade:
                # Refused like this, DSPy leaves it out of the prompt too.
                _RLM_LOG.addFilter(_is_news)
                raise CodeExecutionError("sub-agents of DSPy's facade are off here: use sub_rlm or llm_query")
            self._check_names(given)
            if len(json.dumps(code)) > _MOST_CODE:
                raise CodeExecutionError(f"the code is too long: {len(code):,} characters; send data as a variable")
            return self._result(self._run(code, given))

    def pull(self, name: str) -> Any:
        """The value of a variable in the sandbox: plain values (see `codec.pack`), arrays, Series and DataFrames.

        "_" is the value of the expression that the last cell ended with, None where it ended with none. Nothing is
        unpickled. Raises CodeExecutionError for a variable that is not there or cannot travel.
        """
        with self._alone():
            done = self._run("", {}, pull=name)
            self._result(done)
            return done.value

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        if not self._executing.acquire(blocking=False):
            raise CodeInterpreterError("a cell is running already; a tool cannot run another one in the same sandbox")
        try:
            self._refuse_if_over()
            yield
        finally:
            self._executing.release()

    @with_callbacks
    def invoke_tool(self, tool_name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call one host tool as generated code asked for it."""
        tool = self.tools.get(tool_name)
        if tool is None:
            raise NameError(f"there is no tool {tool_name}")
        result = call_bound(tool, args, kwargs)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    def interrupt(self) -> None:
        """Stop the running cell from any thread; nothing happens when none runs."""
        opened = self._opened
        if opened is not None:
            opened.link.interrupt()

    @with_callbacks
    def shutdown(self) -> None:
        """End the REPL and its sandbox."""
        with self._starting:
            self._end("it was shut down")

    def _run(self, code: str, variables: dict[str, Any], pull: str = "") -> Done:
        if self._opened is None:
            self.start()
        opened, inputs = self._opened, self._inputs
        assert opened is not None
        assert inputs is not None
        try:
            return self._ran(opened, inputs, code, variables, pull)
        except SandboxError as err:
            self._end(err.text)
            raise CodeInterpreterError(str(err)) from err

    @during("execute")
    def _ran(self, opened: Opened, inputs: Inputs, code: str, variables: dict[str, Any], pull: str) -> Done:
        bound, values, dropped = inputs.prepare(variables)
        cell = Cell(
            code,
            list(self.tools),
            self.output_fields,
            bound,
            values,
            dropped,
            self._settings.output_chars,
            self._settings.cell_seconds,
            pull,
        )
        done = opened.link.run(cell, self.invoke_tool, self._on_output)
        if done.is_unbound:
            raise SandboxLost(
                f"the sandbox could not take in the inputs: {done.error} {done.message}",
                "raise sandbox.memory_mb, or pass a smaller context",
            )
        if done.wrote:
            opened.wrote(done.wrote)
        return done

    def _result(self, done: Done) -> Any:
        text = done.text
        if done.error == "SyntaxError":
            raise SyntaxError(done.trace or done.message)
        if done.error == "MemoryError":
            done.trace = f"{done.trace.rstrip()}\n{self._memory_told()}"
        if done.error is not None:
            # What was printed before the error is often what explains it.
            raise CodeExecutionError((text if not text or text.endswith("\n") else text + "\n") + done.trace.rstrip())
        if done.final is not None:
            return FinalOutput(done.final)
        return text.removesuffix("\n") or None

    def _memory_told(self) -> str:
        most = self._settings.memory_mb
        return f"MemoryError: each process here may use {most} MB (sandbox.memory_mb); work on smaller parts"

    def _check_names(self, variables: dict[str, Any]) -> None:
        for name in (*variables, *self.tools):
            if not name.isidentifier() or keyword.iskeyword(name) or name in _RESERVED:
                raise CodeInterpreterError(f"{name!r} cannot be the name of a variable or tool")
        both = variables.keys() & self.tools.keys()
        if both:
            raise CodeInterpreterError(f"{', '.join(sorted(both))} would be both a variable and a tool")

    def _refuse_if_over(self) -> None:
        if self._over:
            raise CodeInterpreterError(f"this interpreter's session is over: {self._over}") from SandboxLost(
                f"the sandbox is gone: {self._over}", "make a new interpreter"
            )

    def _end(self, why: str) -> None:
        if not self._over:
            self._over = why
            if self._opened is not None:
                self._opened.close()


def call_bound(tool: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call `tool` with positional arguments turned into keywords: DSPy's wrappers take nothing else.

    Raises TypeError, in Python's own words, for arguments that do not fit.
    """
    try:
        signature = inspect.signature(tool)
    except (TypeError, ValueError):
        return tool(*args, **kwargs)
    bound = signature.bind(*args, **kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL or kind is inspect.Parameter.POSITIONAL_ONLY:
            return tool(*bound.args, **bound.kwargs)
        if kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return tool(**named)


async def _awaited(result: Any) -> Any:
    return await result
