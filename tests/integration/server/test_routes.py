"""The REST routes over a real Workbench: what they answer, to whom, and how they say no."""

from __future__ import annotations

import hashlib
import resource
import socket as sockets
from pathlib import Path

import pytest
import requests
from jupyter_process import wait_until
from worker_thread import WorkerThread, talk

from fleet_rlm_jupyter.connection import error_of
from fleet_rlm_jupyter.domain.api import API
from fleet_rlm_jupyter.domain.calls import fold
from fleet_rlm_jupyter.domain.errors import ErrorText, SandboxUnavailable
from fleet_rlm_jupyter.domain.events import CallStarted, Event
from fleet_rlm_jupyter.server.routes import ROUTES
from fleet_rlm_jupyter.settings import Settings, StoreSettings
from fleet_rlm_jupyter.testing import FolderPlace, ScriptedEngine, UnisolatedSandboxes, code, scripted_workbench
from fleet_rlm_jupyter.workbench import Workbench


@pytest.fixture(scope="module")
def worker():
    thread = WorkerThread(scripted_workbench(ScriptedEngine(lambda prompt: code("SUBMIT(answer='yes')"))))
    yield thread
    thread.close()


@pytest.fixture
def session(worker):
    made = worker.ask("POST", "/sessions", json={"title": "a title"})
    assert made.status_code == 201
    return made.json()["session_id"]


def run_to_its_end(worker, session_id, question="is it?", user="ann"):
    body = {"question": question, "session_id": session_id, "mode": "rlm_only"}
    made = worker.ask("POST", "/runs", user, json=body)
    assert made.status_code == 201, made.text
    run_id = made.json()["run_id"]
    connection = worker.socket(user)
    connection.reply(op="follow", run_id=run_id)
    connection.follow_to_the_end(run_id)
    connection.close()
    worker.bench.seen_by(user).runs.get(run_id)
    return run_id


def test_a_session_is_made_listed_renamed_archived_restored_and_deleted(worker, session):
    assert session in [line["session_id"] for line in worker.ask("GET", "/sessions").json()["sessions"]]
    assert worker.ask("PATCH", f"/sessions/{session}", json={"title": "another"}).json()["title"] == "another"
    found = worker.ask("GET", "/sessions", params={"search": "anoth"}).json()["sessions"]
    assert [line["session_id"] for line in found] == [session]
    assert worker.ask("POST", f"/sessions/{session}/archive").json()["archived_at"]
    assert session not in worker.ask("GET", "/sessions").text
    assert session in worker.ask("GET", "/sessions", params={"archived": "true"}).text
    assert worker.ask("POST", f"/sessions/{session}/restore").json()["archived_at"] is None
    gone = worker.ask("DELETE", f"/sessions/{session}")
    left = {"session_id": session, "sandbox": "none", "volume": "fleet-rlm", "folder": f"sessions/{session}"}
    assert (gone.status_code, gone.json()) == (200, left)
    assert worker.ask("GET", f"/sessions/{session}").status_code == 404


def test_files_under_the_servers_root_are_staged(worker, session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.txt").write_text("one")
    (tmp_path / "data" / "out").symlink_to("/etc/hostname")
    body = {"question": "q", "session_id": session, "context_paths": ["data"], "key": "staged"}
    accepted = worker.ask("POST", "/runs", json=body).json()
    connection = worker.socket()
    connection.reply(op="follow", run_id=accepted["run_id"])
    connection.follow_to_the_end(accepted["run_id"])
    connection.close()
    manifest = worker.bench.sandboxes().opened[-1].staging.manifest
    assert [(file.path, file.source) for file in manifest.files] == [("01-data/one.txt", "data/one.txt")]
    assert list(manifest.left_out) == ["data/out"]
    assert worker.ask("POST", "/runs", json=body).json() == accepted
    other = worker.ask("POST", "/runs", json={**body, "context_paths": ["data/one.txt"]})
    assert other.json()["code"] == "key_reused"
    twice = {"question": "q", "context_paths": ["data"], "staged": hashlib.sha256(b"").hexdigest()}
    worker.ask("PUT", f"/contexts/{twice['staged']}", data=b"")
    assert "no manifest of staged files" in worker.ask("POST", "/runs", json=twice).text


def test_sessions_come_in_pages(worker):
    made = [worker.ask("POST", "/sessions", "pat", json={"title": str(number)}).json() for number in range(5)]
    found, cursor = [], None
    for _ in range(3):
        page = worker.ask("GET", "/sessions", "pat", params={"limit": 2, "cursor": cursor}).json()
        found += page["sessions"]
        cursor = page["cursor"]
    assert cursor is None
    assert [line["session_id"] for line in found] == [line["session_id"] for line in reversed(made)]
    assert worker.ask("GET", "/sessions", params={"cursor": "nonsense"}).status_code == 400


def test_what_was_said_is_in_turns_stats_events_tree_and_record(worker, session):
    run_id = run_to_its_end(worker, session)
    turns = worker.ask("GET", f"/sessions/{session}/turns").json()["turns"]
    assert [(turn["message"], turn["run"]["answer"]) for turn in turns] == [("is it?", "yes")]
    assert worker.ask("GET", f"/sessions/{session}/stats").json()["by_status"] == {"done": 1}
    assert worker.ask("GET", f"/runs/{run_id}").json()["status"] == "done"
    assert worker.ask("GET", f"/runs/{run_id}/record").json()["answer"] == "yes"
    page = worker.ask("GET", f"/runs/{run_id}/events", params={"since": 1, "limit": 3}).json()
    assert [event["seq"] for event in page["events"]] == [1, 2, 3]
    assert (page["next"], page["status"]) == (4, "done")
    exported = worker.ask("GET", f"/runs/{run_id}/export")
    assert exported.headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{run_id}.jsonl"
    tree = fold(map(Event.decode, exported.text.splitlines()))
    shown = worker.ask("GET", f"/runs/{run_id}/tree").json()
    assert [call["id"] for call in shown["calls"]] == list(tree.calls)
    assert (shown["status"], shown["answer"], shown["last_seq"]) == ("done", "yes", tree.last_seq)
    digest = hashlib.sha256(b"SUBMIT(answer='yes')").hexdigest()[:16]
    (cell,) = [call for call in shown["calls"] if call["kind"] == "code"]
    assert (cell["code_sha256"], cell["result"]) == (digest, "final")
    assert [box["state"] for box in shown["sandboxes"].values()] == [box.state for box in tree.sandboxes.values()]
    assert run_id in worker.ask("GET", "/runs", params={"session_id": session}).text


def test_a_problem_says_in_which_phase_of_a_sandbox_and_is_that_error_again_at_the_client(worker):
    body = {"question": "?", "mode": "rlm_only", "repo_url": "file:///nowhere/at-all"}
    problem = worker.ask("POST", "/runs", json=body).json()
    assert (problem["code"], problem["phase"]) == ("bad_request", "clone")
    assert ErrorText.of(error_of(problem)).phase == "clone"
    assert error_of({**problem, "phase": "one of a newer server"}).phase == ""


def test_a_long_value_is_fetched_in_full_by_its_id(worker):
    text = "<p>" + "long " * 2000

    def work(emit):
        emit(CallStarted(parent_id=None, kind="code", name="python", depth=1, inputs={"code": text[:100]}), "c1")

    live = talk(worker.bench, "ann", work)
    live.result(30)
    run_id = live.run_id
    found = worker.ask("GET", f"/runs/{run_id}/value", params={"call_id": "c1", "name": "code"})
    assert found.json() == {"text": text[:100]}
    assert worker.ask("GET", f"/runs/{run_id}/value", params={"call_id": "c9"}).status_code == 400


def test_feedback_is_kept_and_replaced(worker, session):
    run_id = run_to_its_end(worker, session)
    for rating in (-1, 1):
        given = worker.ask("PUT", f"/runs/{run_id}/feedback", json={"rating": rating, "comment": "so"})
        assert given.json()["rating"] == rating
    assert [line["rating"] for line in worker.ask("GET", f"/sessions/{session}/feedback").json()] == [1]
    assert worker.ask("PUT", f"/runs/{run_id}/feedback", json={"rating": 5}).json()["code"] == "wrong_type"


def test_a_session_travels_as_one_file(worker, session):
    run_to_its_end(worker, session)
    exported = worker.ask("GET", f"/sessions/{session}/export")
    made = worker.ask("POST", "/sessions/import", "bob", data=exported.content)
    assert made.status_code == 201
    turns = worker.ask("GET", f"/sessions/{made.json()['session_id']}/turns", "bob").json()["turns"]
    assert [turn["run"]["answer"] for turn in turns] == ["yes"]
    assert worker.ask("POST", "/sessions/import", data=b"PK\x03\x04").status_code == 400


def test_a_run_over_rest_is_cancelled_over_rest(worker, session):
    run_id = run_to_its_end(worker, session)
    assert worker.ask("POST", f"/runs/{run_id}/cancel", json={}).status_code == 204


BODIES = {
    "{session_id}": {"title": "x"}, "cancel": {}, "answer": {"call_id": "c", "text": "t"}, "feedback": {"rating": 1},
    "folders": {"path": "memory/x"}, "move": {"path": "memory/x", "to": "memory/y"},
    "datasets": {"name": "x"}, "versions": {},
}  # fmt: skip


def own(worker, session, run_id):
    """Every route that names a session or a run, with what it needs."""
    ids = {"session_id": session, "run_id": run_id}
    for route in ROUTES:
        if route.names and set(route.names) <= ids.keys():
            body = {"json": BODIES[route.path.rsplit("/", 1)[-1]]} if "body" in route.hints else {}
            needed = {"value": {"call_id": "c"}, "files": {"path": "memory/x"}, "content": {"path": "memory/x"}}
            query = {"params": needed.get(route.path.rsplit("/", 1)[-1], {})}
            yield route.method, route.path.format(**ids), {**body, **query}


def test_what_belongs_to_one_user_does_not_exist_for_another(worker, session):
    run_id = run_to_its_end(worker, session)
    tried = list(own(worker, session, run_id))
    assert len(tried) >= 15
    for method, path, more in tried:
        answer = worker.ask(method, path, "bob", **more)
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["code"] in ("no_such_session", "no_such_run")
    body = {"question": "q", "session_id": session}
    assert worker.ask("POST", "/runs", "bob", json=body).json()["code"] == "no_such_session"
    assert worker.ask("GET", "/sessions", "bob").text.count(session) == 0
    assert worker.ask("GET", "/runs", "bob").text.count(run_id) == 0
    assert worker.ask("GET", f"/runs/{run_id}").status_code == 200, "and it is still there for its owner"


def test_a_file_comes_as_a_download_that_no_browser_runs(worker, session):
    page, files = b"<script>alert(1)</script>", f"/sessions/{session}/files"
    where = {"path": 'artifacts/p ü".html'}
    assert worker.ask("PUT", f"{files}/content", params=where, data=page).status_code == 204
    answer = worker.ask("GET", f"{files}/content", params=where)
    assert (answer.status_code, answer.content) == (200, page)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''p%20%C3%BC%22.html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_a_link_in_a_sessions_files_is_shown_and_not_followed(worker, session, tmp_path):
    (tmp_path / "secret").write_text("planted", encoding="utf-8")
    files = f"/sessions/{session}/files"
    assert worker.ask("POST", f"{files}/folders", json={"path": "artifacts"}).status_code == 204
    folder = Path(worker.bench.sandboxes()._folder.name) / session / "artifacts"
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    tree = worker.ask("GET", files).json()
    assert {entry["path"]: entry["kind"] for entry in tree["entries"]} == {
        "artifacts": "folder", "artifacts/file": "link", "artifacts/folder": "link",
    }  # fmt: skip
    for path in ("artifacts/file", "artifacts/folder/secret", "artifacts/folder"):
        answer = worker.ask("GET", f"{files}/content", params={"path": path})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_path")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "planted" not in answer.text
    assert worker.ask("PUT", f"{files}/content", params={"path": "artifacts/folder/new"}, data=b"x").status_code == 400
    assert worker.ask("GET", files, params={"path": "artifacts/folder"}).status_code == 400
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "planted"


def test_an_upload_goes_through_a_file_and_what_is_too_large_through_none(worker, session):
    """Neither is ever held: the process's peak of memory stays where it was."""
    files, where = f"/sessions/{session}/files/content", {"path": "memory/large"}
    before = peak_mb()
    size = 120_000_000
    given = (bytes(1_000_000) for _ in range(size // 1_000_000))
    assert worker.ask("PUT", files, params=where, data=given).status_code == 204
    listed = worker.ask("GET", f"/sessions/{session}/files").json()["entries"]
    assert {entry["path"]: entry["bytes"] for entry in listed}["memory/large"] == size
    refused = worker.ask("PATCH", "/settings", data=(bytes(1_000_000) for _ in range(100)))
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    refused = worker.ask("PUT", files, params=where, data=(bytes(4_000_000) for _ in range(80)))
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert peak_mb() - before < 60
    worker.ask("DELETE", f"/sessions/{session}/files", params=where)


class Breaking(FolderPlace):
    """A place that is lost while it is read."""

    def pieces(self, path):
        yield bytes(2_000_000)
        raise SandboxUnavailable("it is gone", "ask again")


def test_a_download_whose_sandbox_is_lost_does_not_pass_for_a_whole_file(worker, session, monkeypatch):
    files, where = f"/sessions/{session}/files/content", {"path": "memory/x"}
    assert worker.ask("PUT", files, params=where, data=b"x").status_code == 204
    monkeypatch.setattr("fleet_rlm_jupyter.testing.FolderPlace", Breaking)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        worker.ask("GET", files, params={**where, "most_bytes": 10_000_000})
    monkeypatch.undo()
    assert worker.ask("GET", files, params=where).content == b"x"


@pytest.mark.parametrize("path", ["/sessions/import", "/datasets/large"])
def test_a_body_that_has_to_be_held_is_refused_where_it_is_too_large(worker, path):
    most = 32 * 1024**2
    refused = worker.ask("POST", path, data=b" " * (most + 1))
    assert refused.status_code == 413
    assert refused.json()["message"] == "the body of such a request has at most 32 MB"
    assert worker.ask("POST", path, data=b" " * most).json()["code"] == "bad_request", "read, and found empty"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_files_have_limits(worker, session):
    files = f"/sessions/{session}/files"
    for query in ({"path": "memory/x", "most_bytes": -1}, {"path": "memory/x", "most_bytes": 2**40}, {}):
        assert worker.ask("GET", f"{files}/content", params=query).status_code == 400, query
    for query in ({"depth": 0}, {"most": 0}, {"most": 10**9}, {"path": "../x"}):
        assert worker.ask("GET", files, params=query).status_code == 400, query


def test_ids_that_are_guessed_are_not_found(worker, session):
    for guess in ("r-", "s-0", "0", "%2e%2e", "..%2f..", "%00", "a" * 500, "☃", session[:-1], session + "0"):
        assert worker.ask("GET", f"/sessions/{guess}").status_code == 404, guess
        assert worker.ask("GET", f"/runs/{guess}").status_code == 404, guess
        assert worker.ask("GET", f"/optimizations/{guess}").status_code == 404, guess
        assert worker.ask("GET", f"/optimizations/{guess}/rows").status_code == 404, guess


def put(worker, sha256, offset, raw, more=0):
    """Send `raw` as the rest of a context from `offset` on, and break off if `more` would have to come."""
    with sockets.create_connection(("127.0.0.1", worker.port), timeout=30) as line:
        head = "".join(f"{name}: {value}\r\n" for name, value in worker.headers().items())
        path = f"{API}/contexts/{sha256}?offset={offset}"
        line.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw) + more}\r\n{head}\r\n".encode())
        line.sendall(raw)
        return b"" if more else line.recv(1000)


def test_an_upload_that_breaks_off_goes_on_from_where_it_was(worker):
    raw = bytes(range(256)) * 8000
    sha256 = hashlib.sha256(raw).hexdigest()

    def state():
        return worker.ask("GET", f"/contexts/{sha256}").json()

    put(worker, sha256, 0, raw[:700_000], more=len(raw) - 700_000)
    wait_until(lambda: state()["received"] == 700_000, 10)
    wrong = put(worker, sha256, 5, b"x")
    assert wrong.startswith(b"HTTP/1.1 400 ")
    done = put(worker, sha256, 700_000, raw[700_000:])
    assert done.startswith(b"HTTP/1.1 200 ")
    assert state() == {"sha256": sha256, "is_complete": True, "received": 0}
    assert worker.bench.seen_by("ann").contexts.get(sha256) == raw
    assert not worker.ask("GET", f"/contexts/{sha256}", "bob").json()["is_complete"], "of each user their own"


def test_a_context_that_is_not_what_its_name_says_is_refused(worker):
    wrong = worker.ask("PUT", f"/contexts/{'0' * 64}", data=b"something")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_request")
    for name in ("0" * 63, "A" * 64, "..%2f..%2fetc", "x"):
        assert worker.ask("PUT", f"/contexts/{name}", data=b"x").status_code == 400
        assert worker.ask("GET", f"/contexts/{name}").status_code == 400
    assert worker.ask("POST", f"/contexts/{'0' * 64}").status_code == 405


def test_settings_show_no_key_and_change_as_a_whole():
    settings = Settings(
        api_key="sk-canary-key-1234567890", store=StoreSettings(url=scripted_workbench("").settings.store.url)
    )
    thread = WorkerThread(Workbench(settings, UnisolatedSandboxes()))
    try:
        shown = thread.ask("GET", "/settings")
        assert "canary" not in shown.text
        by_name = {line["name"]: line for line in shown.json()["settings"]}
        assert (by_name["api_key"]["value"], by_name["api_key"]["is_changeable"]) == ("**********", False)
        kept = thread.ask("PATCH", "/settings", json={"updates": {"api_key": "**********", "budget.calls": 9}})
        assert {line["name"]: line["value"] for line in kept.json()["settings"]}["budget.calls"] == 9
        for updates in ({"api_key": "sk-other"}, {"nope": 1}, {"budget.calls": 3, "model_seconds": 0}):
            refused = thread.ask("PATCH", "/settings", json={"updates": updates})
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_settings")
        assert thread.bench.settings.budget.calls == 9
        assert thread.bench.settings.api_key.get_secret_value() == "sk-canary-key-1234567890"
    finally:
        thread.close()


BAD = [
    ("POST", "/runs", {"data": b"{"}, 400, "bad_request"),
    ("POST", "/runs", {"data": b"[" * 100_000}, 400, "bad_request"),
    ("POST", "/runs", {"data": b"\xff\xfe"}, 400, "bad_request"),
    ("POST", "/runs", {"data": b'{"question": NaN}'}, 400, "bad_request"),
    ("POST", "/runs", {"json": []}, 400, "wrong_type"),
    ("POST", "/runs", {"json": {}}, 400, "missing_field"),
    ("POST", "/runs", {"json": {"question": "q", "user": "root"}}, 400, "unknown_field"),
    ("POST", "/runs", {"json": {"question": "q", "limits": {"calls": "many"}}}, 400, "wrong_type"),
    ("POST", "/runs", {"data": b"x" * 5_000_000}, 413, "too_large"),
    ("GET", "/runs", {"params": {"limit": "a"}}, 400, "wrong_type"),
    ("GET", "/runs", {"params": {"limit": 0}}, 400, "wrong_type"),
    ("GET", "/runs", {"params": {"nonsense": 1}}, 400, "unknown_field"),
    ("GET", "/runs?search=%ff", {}, 400, "bad_request"),
    ("GET", "/comparisons", {}, 400, "missing_field"),
    ("GET", "/comparisons", {"params": {"sides": "a"}}, 400, "bad_request"),
    ("GET", "/comparisons", {"params": {"sides": "a,b"}}, 404, "no_such_program"),
    ("GET", "/optimizations", {"params": {"limit": 0}}, 400, "wrong_type"),
    ("POST", "/optimizations", {"json": {"program": "p", "dataset": "d", "key": ""}}, 400, "wrong_type"),
    ("GET", "/status", {"params": {"x": 1}}, 400, "bad_request"),
    ("GET", "/nowhere", {}, 404, "not_found"),
    ("PUT", "/runs", {}, 405, "method_not_allowed"),
    ("DELETE", "/status", {}, 405, "method_not_allowed"),
    ("POST", "/checks", {"data": b"{}"}, 400, "bad_request"),
]


@pytest.mark.parametrize(("method", "path", "more", "status", "code"), BAD)
def test_a_bad_request_is_a_problem_document(worker, method, path, more, status, code):
    answer = worker.ask(method, path, **more)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json().keys() == {"code", "message", "hint"}
    assert "Traceback" not in answer.text


def test_without_the_key_or_the_user_nothing_is_told(worker):
    for headers in ({}, {"X-Fleet-Key": "guess", "X-Fleet-User": "ann"}, {"X-Fleet-Key": "k3y"}):
        for path in ("/status", "/runs", "/nowhere"):
            if path == "/nowhere" and headers.get("X-Fleet-Key") == "k3y":
                continue
            assert requests.get(worker.url + API + path, headers=headers, timeout=30).status_code == 403


def test_what_nobody_foresaw_is_told_without_a_word_of_the_inside(worker, monkeypatch, caplog):
    def breaks(*args):
        raise RuntimeError("secret-canary at /root/path")

    monkeypatch.setattr(type(worker.bench.runs), "list", breaks)
    headers = {**worker.headers(), "X-Request-ID": "id-17"}
    answer = requests.get(f"{worker.url}{API}/runs", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["X-Request-ID"] == "id-17"
    assert "canary" not in answer.text
    assert "canary" in caplog.text, "the log has it"
    assert "request id-17: GET /fleet/api/v1/runs failed" in caplog.text


def test_the_server_says_whether_it_is_ready_and_what_is_missing(worker):
    answer = worker.ask("GET", "/ready").json()
    assert {check["name"] for check in answer["checks"]} >= {"model", "sandbox"}
    assert answer["is_ready"] == all(check["is_good"] for check in answer["checks"])
    assert all(check["text"] for check in answer["checks"])


def test_a_server_without_what_it_needs_says_what_and_what_to_do():
    settings = Settings(model="nope/nothing", store=StoreSettings(url="sqlite:////proc/no/such/place.db"))
    thread = WorkerThread(Workbench(settings, UnisolatedSandboxes()))
    try:
        answer = thread.ask("GET", "/ready").json()
    finally:
        thread.close()
    missing = {check["name"]: check for check in answer["checks"] if not check["is_good"]}
    assert not answer["is_ready"]
    assert "store" in missing
    assert all(check["hint"] for check in missing.values())


def test_the_committed_description_of_the_api_is_what_the_code_says(worker):
    path = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
    said = worker.ask("GET", "/openapi.json").text
    assert path.read_text(encoding="utf-8") == said, "run: python tests/docs/test_http_api.py"
