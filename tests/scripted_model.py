"""An OpenAI-compatible server on loopback whose answers a function gives: for runs in another process."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

Policy = Callable[[str], str]

DEAF = """
import ctypes
lock, acquire = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock
acquire(lock), acquire(lock)
"""
"""A cell that waits in C for itself and holds the interpreter: deaf to signals like a loop in C, but it uses no CPU."""


class ScriptedModel:
    """`policy` answers a prompt, `calls` counts them; `settings` are those of a run that uses it. For `with`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.prompts: list[str] = []
        model = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = "\n".join(_text_of(message) for message in body["messages"])
                model.prompts.append(prompt)
                self.close_connection = True
                with contextlib.suppress(OSError):
                    _reply(self, model.policy(prompt), is_stream=bool(body.get("stream")))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def script(self, policy: Policy) -> None:
        """Begin anew with this policy."""
        self.policy, self.prompts = policy, []

    @property
    def calls(self) -> int:
        return len(self.prompts)

    @property
    def settings(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return {"model": "openai/scripted", "api_base": url, "api_key": "none-needed", "model_retries": 0}

    def __enter__(self) -> ScriptedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _reply(handler: http.server.BaseHTTPRequestHandler, text: str, *, is_stream: bool) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    known: dict[str, Any] = {"id": "1", "created": 0, "model": "scripted"}
    if not is_stream:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({**known, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        kind = "application/json"
    else:
        delta = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        known["object"] = "chat.completion.chunk"
        chunks = [{**known, "choices": [delta]}, {**known, "choices": [end]}, {**known, "choices": [], "usage": usage}]
        data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"
        kind = "text/event-stream"
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("Connection", "close")  # or a client may send its next request on a line that is closing
    handler.end_headers()
    handler.wfile.write(data)
