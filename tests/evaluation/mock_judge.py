"""A judge in place of the network: the real `openai` client calls it through a mock transport."""

from __future__ import annotations

import json
import sys
import threading

import openai

# Which HTTP library the client is built on depends on its version.
HTTP = sys.modules[openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0]]
_OpenAI = openai.OpenAI


def status(code, message="no", **headers):
    """An HTTP error in OpenAI's form; the client waits a millisecond before it retries."""
    headers = {"retry-after-ms": "1", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda: HTTP.Response(code, json={"error": {"message": message}}, headers=headers)


def body(text):
    """A reply with this JSON body as it is."""
    return lambda: HTTP.Response(200, content=text, headers={"content-type": "application/json"})


class MockJudge:
    """Answers every client that is created from now on.

    Args:
        monkeypatch: undoes it.
        answer: request -> text of the answer, a response maker (`status`, `body`), or an exception to raise.
        check: the same for the first small call.
    """

    def __init__(self, monkeypatch, answer, check=lambda request: '{"ready": true}'):
        self.checks, self.requests, self.keys = [], [], set()
        self._answer, self._check, self._lock = answer, check, threading.Lock()

        def client(**settings):
            return _OpenAI(**settings, http_client=HTTP.Client(transport=HTTP.MockTransport(self._reply)))

        monkeypatch.setattr(openai, "OpenAI", client)

    def _reply(self, sent):
        request = json.loads(sent.content)
        is_check = '"ready"' in request["messages"][1]["content"]
        with self._lock:
            (self.checks if is_check else self.requests).append(request)
            self.keys.add(sent.headers["authorization"])
        said = (self._check if is_check else self._answer)(request)
        if isinstance(said, Exception):
            raise said
        if callable(said):
            return said()
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return HTTP.Response(200, json={"id": "1", "object": "chat.completion", "created": 0, "model": "served-by-test",
                                        "choices": [choice]})  # fmt: skip
