"""A module that is imported when it is used, and no sooner."""

from __future__ import annotations

import contextlib
import gc
import importlib
import subprocess
import sys

import pytest

from fleet_rlm_jupyter.deferred import defer, imported, importing

SOURCE = """
import threading
loaded_by = threading.get_ident()
WORD = "as it is"

def says(word, loud=False):
    return word.upper() if loud else word
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """The name of a module that can be imported and is not."""
    name = "slow_to_import"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def is_loaded(name: str) -> bool:
    return "loaded_by" in vars(sys.modules[name])


def test_it_is_imported_when_its_function_is_called(slow):
    defer(slow, "says")
    says = importlib.import_module(slow).says
    assert not is_loaded(slow)
    assert says("word", loud=True) == "WORD"
    assert is_loaded(slow)
    assert importlib.import_module(slow).says("word") == "word"


def test_a_from_import_of_the_function_imports_nothing_and_of_anything_else_does(slow):
    defer(slow, "says")
    exec(f"from {slow} import says", {})
    assert not is_loaded(slow)
    given: dict[str, str] = {}
    exec(f"from {slow} import WORD", given)
    assert given["WORD"] == "as it is"


def test_what_is_not_there_is_not_made_up(slow):
    defer(slow, "says")
    with pytest.raises(ImportError):
        exec(f"from {slow} import nothing", {})
    defer("there_is_no_such_module", "says")
    assert "there_is_no_such_module" not in sys.modules


def test_what_is_imported_already_stays(slow):
    module = importlib.import_module(slow)
    defer(slow, "says")
    assert sys.modules[slow] is module


def test_a_workbench_does_not_wait_for_the_grammar_of_iris_and_they_are_checked_all_the_same():
    code = (
        "import sys, fleet_rlm_jupyter.workbench, jsonschema\n"
        "assert 'jsonschema' in sys.modules and 'lark' not in sys.modules\n"
        "checker = jsonschema.Draft7Validator.FORMAT_CHECKER\n"
        "iri = jsonschema.Draft7Validator({'format': 'iri'}, format_checker=checker)\n"
        "assert iri.is_valid('http://exämple.org/ä') and not iri.is_valid('no iri <>')\n"
        "assert 'lark' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_collected_while_much_is_imported_and_an_error_does_not_leave_it_so():
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled(), "the inner one leaves it to the outer"
    assert gc.isenabled()
    with contextlib.suppress(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled(), "whose program collects nothing is not made to"
    gc.enable()


def test_what_was_imported_is_old_and_what_somebody_froze_stays_frozen():
    gc.unfreeze()  # what this lane has frozen
    with importing():
        made = [[], []]
    assert any(one is made for one in gc.get_objects(generation=2))
    gc.freeze()
    frozen = gc.get_freeze_count()
    with importing():
        pass
    assert gc.get_freeze_count() == frozen


def test_what_is_there_already_ages_nothing(slow):
    gc.unfreeze()
    first = imported(slow)
    made = [[], []]
    assert imported(slow) is first
    assert not any(one is made for one in gc.get_objects(generation=2))
    gc.freeze()
