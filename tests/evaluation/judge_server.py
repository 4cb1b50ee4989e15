"""An OpenAI-compatible server on loopback that answers by rule, and misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Drop:
    """Close the connection without a word."""


class Status:
    """An error of HTTP.

    Args:
        code: of it.
        message: in OpenAI's form.
        headers: more of them.
    """

    def __init__(self, code: int, message: str = "no", **headers: str) -> None:
        self.code, self.message = code, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Slow:
    """A reply that comes late.

    Args:
        seconds: by which.
        text: of the reply.
    """

    def __init__(self, seconds: float, text: str) -> None:
        self.seconds, self.text = seconds, text


class Raw:
    """A body as it is, with status 200."""

    def __init__(self, body: str) -> None:
        self.body = body


def is_check(body: dict) -> bool:
    """Whether a request is the first small call."""
    return '"ready"' in body["messages"][1]["content"]


class JudgeServer:
    """Serves on a free port of loopback until it is left.

    Args:
        answer: body of a request -> text of the answer, or one of the classes above. The first small call gets
            "ready" unless `answer_check` is set.
    """

    def __init__(self, answer: Callable[[dict], object], answer_check: bool = False) -> None:
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._guard:
                    outer.requests.append(body)
                    outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                said = '{"ready": true}' if is_check(body) and not answer_check else answer(body)
                if isinstance(said, Slow):
                    time.sleep(said.seconds)
                    said = said.text
                if isinstance(said, Drop):
                    self.close_connection = True
                    return
                code, more = 200, {}
                if isinstance(said, Status):
                    code, more = said.code, said.headers
                    text = json.dumps({"error": {"message": said.message}})
                elif isinstance(said, Raw):
                    text = said.body
                else:
                    message = {"role": "assistant", "content": said}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    text = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "served-by-test",
                                       "choices": [choice]})  # fmt: skip
                try:
                    self.send_response(code)
                    for name, value in {"Content-Type": "application/json", **more}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass  # the client has gone

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def asked(self) -> list[dict]:
        """Requests without the first small calls."""
        return [body for body in self.requests if not is_check(body)]

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
