"""Where a run goes, and the words for it. Real servers: tests/integration/test_kernel_placement.py."""

import pytest

from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.kernel.placement import choose
from fleet_rlm_jupyter.settings import Settings

NOBODY = Settings(server_url="http://127.0.0.1:9/")


def test_without_a_server_it_is_the_kernel_and_the_line_says_why():
    place = choose("auto", NOBODY)
    assert place.server is None
    assert place.line == "in this kernel: the server at http://127.0.0.1:9/ does not answer"


def test_what_ties_a_run_to_the_kernel_is_said_before_any_server_is_looked_for():
    assert choose("auto", NOBODY, ["of this", "of that"]).line == "in this kernel: of this"
    assert choose("kernel", NOBODY).line == "in this kernel, as asked for"


@pytest.mark.parametrize(
    ("on", "ties", "says"), [("server", ["of this"], "of this"), ("server", [], "does not answer")]
)
def test_a_server_that_is_asked_for_and_cannot_be_had_is_an_error(on, ties, says):
    with pytest.raises(BadRequest, match=says):
        choose(on, NOBODY, ties)


def test_any_other_place_is_refused():
    with pytest.raises(BadRequest, match="server or kernel"):
        choose("moon", NOBODY)  # type: ignore[arg-type]
