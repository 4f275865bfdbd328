"""Session, Turn and Run are records: made once, never changed."""

from __future__ import annotations

import pytest

from fleet_rlm_jupyter.domain.session import Run, Session, Turn, new_id


def test_ids_say_what_they_name_and_do_not_repeat():
    ids = [new_id("r") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(name.startswith("r-") and len(name) == 22 for name in ids)


def test_a_turn_makes_a_new_session_and_leaves_the_old_one():
    before = Session()
    run = Run(run_id="r-1", session_id=before.session_id, program="ask", question="?", status="done", answer="!")
    after = before.after(Turn(message="?", run=run))
    assert before.turns == ()
    assert [turn.run.answer for turn in after.turns] == ["!"]
    assert after.session_id == before.session_id
    assert Session.model_validate_json(after.model_dump_json()) == after
    with pytest.raises(ValueError, match="frozen"):
        after.turns = ()  # type: ignore[misc]
