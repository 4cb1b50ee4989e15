"""One call to the judge's endpoint, and whether what went wrong with it may pass, is final, or hits all calls."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from ..errors import Ego2ExoError
from .judge_answers import plain
from .judge_prompts import Messages
from .judge_settings import NO_KEY, JudgeSettings

_JSON = {"type": "json_object"}
# Of too many requests, a conflict, or a server's timeout a later try may come to another end.
_PASSING = (408, 409, 425, 429)
_REFUSED = (401, 403, 404)
_OK = 200
# Shorter keys are placeholders ("none", "ollama"), which may stand in any text.
_SECRET = 8


@dataclass(frozen=True)
class Said:
    """What the judge said.

    Args:
        text: as it came.
        model: as the server calls what answered.
        sent: settings of the call.
    """

    text: str
    model: str
    sent: dict[str, Any]


class CallFailed(Exception):
    """A call brought no text.

    Args:
        reason: in words, without the key.
        passing: another try may help.
        status: of HTTP; 0 where no reply came.
        wait_s: how long the server asks to wait, in seconds.
        nobody: there is no server at this address.
    """

    def __init__(
        self, reason: str, passing: bool = True, status: int = 0, wait_s: float = 0.0, nobody: bool = False
    ) -> None:
        super().__init__(reason)
        self.passing, self.status, self.wait_s, self.nobody = passing, status, wait_s, nobody

    @property
    def refused(self) -> bool:
        """The server takes no call of this key, for this model, or at this address."""
        return self.status in _REFUSED


class JudgeClient:
    """Calls the endpoint; threads may do so at once.

    Args:
        settings: of the judge.

    Raises:
        Ego2ExoError: the `openai` package is missing, or the key's variable is not set.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._openai = _openai()
        self._settings, self._key = settings, settings.key()
        self._client = self._openai.OpenAI(
            base_url=settings.url, api_key=self._key, timeout=settings.timeout_s, max_retries=0
        )
        self._sent: dict[str, Any] = {**settings.asked(), "response_format": _JSON}
        self._guard = threading.Lock()
        self.calls = 0

    def call(self, messages: Messages) -> Said:
        """One call.

        Raises:
            CallFailed: no text came.
        """
        with self._guard:
            self.calls += 1
        sent = self._sent
        try:
            # As an extra body: not every version of the package knows every setting by name.
            reply = self._client.chat.completions.create(model=self._settings.model, messages=messages, extra_body=sent)
            # Servers differ in what they leave out or send instead.
            text, model = reply.choices[0].message.content, getattr(reply, "model", None)
        except self._openai.OpenAIError as error:
            raise self._failed(error) from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise CallFailed("a reply without choices, or in another form than OpenAI's", status=_OK) from None
        if not isinstance(text, str) or not text.strip():
            ended = getattr(reply.choices[0], "finish_reason", None)
            raise CallFailed(f"a reply without text (finish_reason {ended})", status=_OK)
        return Said(self._clean(text), self._clean(str(model or "")), sent)

    def settle(self, messages: Messages) -> None:
        """Find out which settings the server takes: what it refuses by HTTP 400 is left out of all calls to come.

        Raises:
            CallFailed: no text came.
        """
        while True:
            try:
                self.call(messages)
                return
            except CallFailed as error:
                if error.status not in (400, 422) or not self._yield(str(error)):
                    raise

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _yield(self, refusal: str) -> bool:
        """Give up one setting; False where none is left that the refusal can mean."""
        sent = dict(self._sent)
        if "max_completion_tokens" in refusal and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        elif "temperature" in refusal and "temperature" in sent:
            del sent["temperature"]
        elif "response_format" in sent:
            # Not every server names what it does not know.
            del sent["response_format"]
        else:
            return False
        self._sent = sent
        return True

    def _failed(self, error: Exception) -> CallFailed:
        openai = self._openai
        if isinstance(error, openai.APITimeoutError):
            return CallFailed(f"no reply within {self._settings.timeout_s:g} s")
        if isinstance(error, openai.APIStatusError):
            status = error.status_code
            reason = f"HTTP {status}: {self._clean(_message(error))}"
            passing = status in _PASSING or status >= 500
            return CallFailed(reason, passing, status, _seconds(error.response.headers.get("retry-after")))
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
        # By name: which of its libraries makes the connection differs among versions of the package.
        nobody = type(cause).__name__ == "ConnectError"
        return CallFailed(self._clean(str(cause or error) or type(error).__name__)[:200], nobody=nobody)

    def _clean(self, text: str) -> str:
        secret = self._key != NO_KEY and len(self._key) >= _SECRET
        return plain(text.replace(self._key, "(key)") if secret else text)


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise Ego2ExoError(
            f"a judge needs the package `openai`, which cannot be imported: {error}",
            "version 1 or later",
            "pip install 'llava-ego2exo[judge]'",
        ) from error
    return openai


def _message(error: Any) -> str:
    """What the server said, on one line."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body.get("error", body)
    text = inner.get("message") if isinstance(inner, dict) else inner
    return " ".join(str(text or error.body or "(no message)").split())[:200]


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header: seconds, or a date; 0 where it is neither."""
    import time

    try:
        return max(float(retry_after or 0), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(retry_after or "").timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
