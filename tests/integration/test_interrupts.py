"""An interrupt at any line between a question and its end leaves no run that goes on, wherever it runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from jupyter_process import wait_until
from worker_thread import WorkerThread

from fleet_rlm_jupyter import remote, workbench
from fleet_rlm_jupyter.domain.masking import Mask
from fleet_rlm_jupyter.domain.session import KeptRun
from fleet_rlm_jupyter.engine import unbroken
from fleet_rlm_jupyter.kernel import display, handles
from fleet_rlm_jupyter.kernel.connect import Server
from fleet_rlm_jupyter.kernel.placement import Placed
from fleet_rlm_jupyter.remote import RemoteWorkbench
from fleet_rlm_jupyter.testing import ScriptedEngine, code, scripted_workbench
from fleet_rlm_jupyter.verbs import starting
from fleet_rlm_jupyter.workbench import Question

STRUCK = [module.__file__ for module in (display, handles, unbroken, remote, workbench, starting)]


class Model:
    """Answers when it is told to; `calls` counts what it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.release = threading.Event()

    def __call__(self, prompt: str) -> str:
        self.calls += 1
        self.release.wait(20)
        return code("SUBMIT(answer='late')")


class Interrupts:
    """Raises KeyboardInterrupt at a line of ours that this thread comes to for the first time."""

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()

    def strike(self, frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in STRUCK:
            return None
        if event == "exception" and arg[0] is KeyboardInterrupt:
            sys.settrace(None)  # that of the clock: one is enough
        line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line not in self.lines:
            self.lines.add(line)
            sys.settrace(None)
            raise KeyboardInterrupt
        return self.strike

    def until_all_are_known(self, do: Callable[[], object]) -> int:
        """How often `do` was interrupted: at each line, and when it had come to no new one for a second."""
        times = 0
        while True:
            times, before = times + 1, len(self.lines)
            last = threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT))
            last.start()
            sys.settrace(self.strike)
            with pytest.raises(KeyboardInterrupt):
                do()
            sys.settrace(None)
            last.cancel()
            if len(self.lines) == before:
                return times


@pytest.fixture(params=["here", "on a server"])
def book(request, monkeypatch):
    model = Model()
    bench = scripted_workbench(ScriptedEngine(model))
    made = handles.Notebook()
    monkeypatch.setattr(made, "bench", lambda settings=None: bench)
    thread = WorkerThread(bench) if request.param == "on a server" else None
    if thread is not None:
        there = Server(thread.url, "", "a test")
        monkeypatch.setattr(made, "place", lambda options=None, tie="": Placed(there, "on a server"))
        monkeypatch.setattr(made, "remote", lambda server: RemoteWorkbench(thread.url, headers=thread.headers("me")))
    yield made, model, bench.seen_by("me") if thread else bench
    model.release.set()
    bench.close()
    if thread is not None:
        thread.close()


def test_an_interrupt_at_any_line_between_question_and_end_leaves_no_run_that_goes_on(book):
    notebook, model, bench = book
    interrupts = Interrupts()
    asked, question = handles.AskOptions(mode="rlm_only"), f"anything {id(notebook)}?"

    def runs() -> list[KeptRun]:
        return bench.runs.list(question, limit=100)

    def ask() -> None:
        calls = 0
        try:
            lines = display.LiveLines()
            if lines.follow(lambda take: notebook.start(question, None, asked, take)):
                raise KeyboardInterrupt
        finally:
            calls = model.calls
            wait_until(lambda: all(run.status for run in runs()), 10)
            assert model.calls == calls

    times = interrupts.until_all_are_known(ask)
    assert {run.status for run in runs()} == {"cancelled"}
    assert 10 < len(runs()) < times, "some are interrupted before there is a run, and some when there is one"


@pytest.mark.parametrize("moment", ["just before", "just after"])
@pytest.mark.parametrize("asks", ["notebook", "workbench"])
def test_an_interrupt_while_a_question_is_accepted_leaves_no_run_that_goes_on(book, monkeypatch, moment, asks):
    notebook, model, bench = book
    begun, held = starting.Starter._begun, threading.Event()

    def slow(self: Any, *given: Any) -> Any:
        run = begun(self, *given) if moment == "just after" else None
        os.kill(os.getpid(), signal.SIGINT)
        held.wait(0.3)  # the main thread hears of it, and has to wait for what is under way here
        return run or begun(self, *given)

    monkeypatch.setattr(starting.Starter, "_begun", slow)
    question, server = f"anything {moment} {id(notebook)}?", notebook.place().server
    themselves = notebook.remote(server) if server else bench
    ask = {
        "notebook": lambda: notebook.start(question, None, handles.AskOptions(mode="rlm_only")),
        "workbench": lambda: themselves.ask(Question(question, mode="rlm_only")),
    }
    with pytest.raises(KeyboardInterrupt):
        ask[asks]()
    wait_until(lambda: [run.status for run in bench.runs.list(question)] == ["cancelled"], 10)
    calls = model.calls
    if asks == "notebook":
        assert [handle.run_id for handle in notebook.handles] == [run.run_id for run in bench.runs.list(question)]
        assert notebook.handles[0].result(10).status == "cancelled"
    assert model.calls == calls


def test_what_is_interrupted_before_it_begins_never_does(monkeypatch):
    """The thread is there, and has not come to its work."""
    done, may_begin = [], threading.Event()

    class Late(unbroken.ThreadPoolExecutor):
        def submit(self, work: Any, *given: Any) -> Any:
            def late() -> Any:
                may_begin.wait(10)
                return work(*given)

            os.kill(os.getpid(), signal.SIGINT)
            return super().submit(late)

    monkeypatch.setattr(unbroken, "ThreadPoolExecutor", Late)
    with pytest.raises(KeyboardInterrupt):
        unbroken.unbroken(lambda: done.append(1), lambda: done.append(2))
    may_begin.set()
    wait_until(lambda: not any(thread.name.startswith("fleet-unbroken") for thread in threading.enumerate()))
    assert done == []


def test_a_second_interrupt_does_not_take_the_first_one_back(monkeypatch):
    stopped: list[int] = []

    class Slow:
        def cancel(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.2)
            stopped.append(1)

    with pytest.raises(KeyboardInterrupt):
        handles.Handle(Slow(), Mask()).cancel()
    assert stopped == [1]
