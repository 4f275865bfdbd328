"""`bench.datasets`: a user's rows to try programs on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fleet_rlm_jupyter.domain.dataset import Dataset, DatasetRow, Split, checked_name, read_rows
from fleet_rlm_jupyter.domain.errors import BadRequest
from fleet_rlm_jupyter.verbs.house import House
from fleet_rlm_jupyter.verbs.sessions import Sessions
from fleet_rlm_jupyter.verbs.snapshots import Snapshots

if TYPE_CHECKING:  # it imports SQLAlchemy
    from fleet_rlm_jupyter.store.datasets import StoredDatasets


class Datasets:
    """The datasets of one user. Raises NoSuchDataset for one of another user as for none, and StoreFailed."""

    def __init__(self, house: House, owner: str) -> None:
        self._house = house
        self._owner = owner

    def list(self) -> list[Dataset]:
        return self._stored().list()

    def get(self, name: str) -> Dataset:
        """What is known of it: how many rows of which split, their fields, and what was left out."""
        return self._stored().get(name)

    def create(self, name: str, rows: str | bytes | Iterable[object], origin: str = "") -> Dataset:
        """Keep rows: objects, the text of a JSON array, or one JSON object a line. `origin` is the file's name.

        What is no row is left out and named in `left_out`. Raises BadRequest where no row is left, where it is too much
        and where the name is taken.
        """
        checked_name(name)
        taken, left_out = read_rows(rows, origin)
        mask = self._house.mask
        masked = [
            row.model_copy(update={"fields": mask.everywhere(row.fields), "origin": mask(row.origin)}) for row in taken
        ]
        return self._stored().create(name, masked, [mask(line) for line in left_out])

    def from_session(self, name: str, session_id: str) -> Dataset:
        """A dataset of `question` and `answer` from the turns of a session that its user judged.

        The answer is the one that was expected, or where none was given that of a turn called good.
        """
        sessions = Sessions(self._house, self._owner)
        given = {one.turn_id: one for one in sessions.feedback(session_id)}
        rows = [
            {"question": turn.message, "answer": judged.expected or turn.run.answer}
            for turn in sessions.transcript(session_id).turns
            if (judged := given.get(turn.turn_id)) and (judged.expected or (judged.rating == 1 and turn.run.answer))
        ]
        if not rows:
            raise BadRequest(
                f"no turn of session {session_id} was called good or corrected", "give feedback on turns first"
            )
        return self.create(name, rows, f"session {session_id}")

    def from_snapshots(self, name: str, run_ids: Iterable[str] = ()) -> Dataset:
        """A dataset of `context`, `question` and `answer` from snapshots, all or those of these runs, that were judged.

        The answer is that of `from_session`. A large context is named by its digest, and read when the row is used.
        """
        snapshots, runs = Snapshots(self._house, self._owner), self._house.store().runs(self._owner)
        wanted = [snapshots.get(run_id) for run_id in run_ids] or snapshots.list()
        rows: list[object] = []
        for kept in wanted:
            turn = runs.turn(kept.run_id)
            given = Sessions(self._house, self._owner).feedback(kept.session_id) if turn else []
            judged = next((one for one in given if turn and one.turn_id == turn.turn_id), None)
            answer = turn and judged and (judged.expected or (judged.rating == 1 and turn.run.answer))
            if answer:
                rows.append({"context": snapshots.as_field(kept.context), "question": kept.question, "answer": answer})
        if not rows:
            raise BadRequest("no snapshot is of a turn that was called good or corrected", "give feedback on it first")
        return self.create(name, rows, "snapshots")

    def sample(self, name: str, count: int = 10, split: Split | None = None) -> list[DatasetRow]:
        """Some rows, in no order that means anything; always the same ones."""
        return self._stored().rows(name, split, count)

    def rows(self, name: str, split: Split | None = None) -> list[DatasetRow]:
        """All of them, with the contexts that they name. Raises BadRequest where one is not here any more."""
        whole = Snapshots(self._house, self._owner).whole
        found = self._stored().rows(name, split)
        return [row.model_copy(update={"fields": whole(row.fields)}) for row in found]

    def delete(self, name: str) -> None:
        """Forget it and its rows; what was found with it stays."""
        self._stored().delete(name)

    def _stored(self) -> StoredDatasets:
        return self._house.store().datasets(self._owner)
