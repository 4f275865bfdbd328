"""Cutting a context, and reading what children sent back."""

from generate import make

from fleet_rlm_jupyter.engine.recipes.parts import cut, opened, pieces_of_part
from fleet_rlm_jupyter.engine.recipes.profile import pieces_of
from fleet_rlm_jupyter.engine.recipes.records import Piece


def test_parts_are_balanced_and_lose_nothing():
    files = {f"m{i}.py": "x = 1\n" * (i * i % 97 + 1) for i in range(300)}
    boxes = cut(pieces_of(files), 8)
    sizes = [sum(map(len, box.values())) for box in boxes]
    assert max(sizes) - min(sizes) <= 6 * 97
    back = {piece.path: piece.text for box in boxes for piece in pieces_of_part(box)}
    assert back == files


def test_a_large_file_is_cut_between_lines_and_the_lines_keep_their_numbers():
    made = make("kv", 50_000)
    lines = made.text.split("\n")
    for box in cut(pieces_of(made.text), 5):
        for piece in pieces_of_part(box):
            assert piece.path == "context"
            assert piece.text.split("\n")[0] == lines[piece.first_line - 1]


def test_csv_is_cut_between_records_and_keeps_its_header():
    text = "a,b\n" + '1,"x\ny, ""z"""\n' * 500
    boxes = cut([Piece("csv-comma", 1, "t.csv", text)], 4)
    assert len(boxes) == 4
    assert all(piece.text.startswith('a,b\n1,"x\n') for box in boxes for piece in pieces_of_part(box))
    assert sum(piece.text.count("1,") for box in boxes for piece in pieces_of_part(box)) == 500


def test_paths_with_colons_survive():
    (box,) = cut([Piece("text", 1, "c:odd:name", "x")], 1)
    assert pieces_of_part(box) == [Piece("text", 1, "c:odd:name", "x")]


def test_replies_are_results_refusals_or_losses():
    replies = opened(
        [
            '{"files": 1}',
            {"error": {"code": "depth_exceeded", "text": "too deep"}},
            {"error": {"code": "deadline", "text": "late"}},
            "not understood: pick a recipe",
            "[]",
            None,
        ]
    )
    assert replies.results == {0: {"files": 1}}
    assert replies.refused == {1: "depth_exceeded: too deep"}
    assert replies.lost.keys() == {2, 3, 4, 5}
    assert replies.lost[2] == "deadline: late"
