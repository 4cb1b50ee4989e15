"""Calls to the judge's endpoint through the `openai` client, with an on-disk cache of its answers.

The client itself retries timeouts and HTTP 408, 409, 429 and 5xx, waits as long as Retry-After says, and backs off
otherwise. On top of that, an answer that is not valid is requested again with a note on what is wrong with it.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...common.endpoints import reason_of, reply_text, shown_url, without_key
from ...common.jsonl import AppendFile, read_lines, record_of
from ...common.processes import map_threads
from ...common.record_store import content_key
from ...errors import Ego2ExoError, require_package
from ..items import ORIGIN
from .prompts import CHECK, PROMPT_VERSION, Messages, encodable, messages_of, parse_judgment
from .settings import JudgeSettings

CACHE_FILE = "judge_cache.jsonl"
# The server takes no call of this key, for this model, or at this address.
_REFUSED = (401, 403, 404)
# The request itself is at fault, for example too long: other requests may still succeed.
_BAD_REQUEST = (400, 413, 422)
_LEAST_FAILURES_IN_A_ROW = 8


@dataclass(frozen=True)
class JudgeRequest:
    """One request: an aspect, "merge" or "choice"; the texts to quote by name; the keys that a choice may have."""

    kind: str
    material: dict[str, str]
    options: tuple[str, ...] = ()

    @property
    def messages(self) -> Messages:
        """As they are sent."""
        return messages_of(self.kind, self.material)

    def parse(self, answer: str) -> Any:
        """The value of an answer; raises ValueError where it is not valid."""
        return parse_judgment(self.kind, answer, self.options)


class Verdict(NamedTuple):
    """The result of a request: its value, or the error why there is none."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class CachedAnswer:
    """One line of the cache."""

    key: str  # hash of model, prompt version, messages and settings
    kind: str  # of the request
    answer: str  # as the judge gave it
    model: str  # as the server names the model that answered
    sent: dict[str, Any]  # settings that the server accepted


def read_cache(path: Path) -> dict[str, CachedAnswer]:
    """The answers in a file by their keys; the last line may be torn, a damaged one raises Ego2ExoError."""
    parse = functools.partial(record_of, CachedAnswer, types={"sent": (dict,)})
    lines = read_lines(path, parse, torn=True, origin=ORIGIN) if path.is_file() else ()
    return {answer.key: answer for answer in lines}


class JudgeClient:
    """Asks one judge: each different request once, from the cache where it can be, on several threads.

    Attributes:
        counts: of calls, cache hits and failures.
        used: answers in use by their keys, cached or not.
    """

    def __init__(self, settings: JudgeSettings, folder: str | Path, progress: bool, cached_only: bool) -> None:
        self.settings, self.progress, self.cached_only = settings, progress, cached_only
        self.counts: Counter[str] = Counter()
        self.used: dict[str, CachedAnswer] = {}
        self._path = Path(folder, CACHE_FILE)
        self._answers = read_cache(self._path)
        self._file: AppendFile | None = None
        self._key = ""
        self._api: Any = None
        self._settings_sent: dict[str, Any] = {**settings.sampling(), "response_format": {"type": "json_object"}}
        self._failures_in_a_row = 0
        self._down = ""
        self._lock = threading.Lock()

    def ask(self, requests: Sequence[JudgeRequest], label: str) -> list[Verdict]:
        """A verdict for each request, in their order; equal requests share one.

        Raises:
            Ego2ExoError: the endpoint cannot be reached, or refuses every call.
        """
        settings = self.settings
        keys = [content_key([PROMPT_VERSION, settings.model, one.messages, settings.sampling()]) for one in requests]
        different = dict(zip(keys, requests, strict=True))
        verdicts = {key: found for key, request in different.items() if (found := self._cached(key, request))}
        self.counts["cache_hits"] += len(verdicts)
        rest = [(key, request) for key, request in different.items() if key not in verdicts]
        if self.cached_only:
            verdicts.update((key, self._failed("not judged: needs --judge-url and --judge-model")) for key, _ in rest)
        elif rest:
            if self._api is None:
                self.check()
            made = map_threads(self._verdict, rest, settings.workers, label, "question", self.progress)
            verdicts.update(zip((key for key, _ in rest), made, strict=True))
        return [verdicts[key] for key in keys]

    def check(self) -> None:
        """Make one small call, and leave out of all later calls which settings the server refuses by HTTP 400.

        Raises:
            Ego2ExoError: there is no answer, or the `openai` package is missing.
        """
        openai = require_package("openai", "judge")
        self._key = self.settings.key()
        self._api = openai.OpenAI(
            base_url=self.settings.url, api_key=self._key, timeout=self.settings.timeout_s,
            max_retries=self.settings.retries,
        )  # fmt: skip
        while True:
            try:
                reply_text(self._call(messages_of(CHECK, {})))
                return
            except (openai.OpenAIError, ValueError) as error:
                if getattr(error, "status_code", 0) in _BAD_REQUEST and self._drop_setting(str(error)):
                    continue
                self.close()
                url, model = shown_url(self.settings.url), self.settings.model
                raise Ego2ExoError(
                    f"--judge-url {url} with --judge-model {model}: {self._reason(error)}",
                    "an OpenAI-compatible endpoint that answers",
                    "check the server and its log, --judge-url (usually .../v1), --judge-model and the key in "
                    f"{self.settings.key_env} (--judge-key-env)",
                ) from None

    def close(self) -> None:
        """Close the cache and the connections."""
        for one in (self._file, self._api):
            if one is not None:
                one.close()
        self._file = self._api = None

    def _cached(self, key: str, request: JudgeRequest) -> Verdict | None:
        answer = self._answers.get(key)
        if answer is None:
            return None
        try:
            verdict = Verdict(request.parse(answer.answer))
        except ValueError:
            return None
        self.used[key] = answer
        return verdict

    def _verdict(self, job: tuple[str, JudgeRequest]) -> Verdict:
        key, request = job
        if self._down:
            return self._failed(self._down)
        try:
            value, text, model = self._valid_answer(request)
        except require_package("openai", "judge").OpenAIError as error:
            reason = self._reason(error)
            self._note_failure(getattr(error, "status_code", 0), reason)
            return self._failed(reason)
        except ValueError as error:
            return self._failed(f"no valid answer: {error}")
        answer = CachedAnswer(key, request.kind, text, model, self._settings_sent)
        with self._lock:
            self._file = self._file or AppendFile(self._path)
            self._file.append([answer])
            self._failures_in_a_row = 0
            self._answers[key] = self.used[key] = answer
        return Verdict(value)

    def _valid_answer(self, request: JudgeRequest) -> tuple[Any, str, str]:
        """Value, text and model; an invalid answer is shown to the judge, since the same request would repeat it."""
        messages, left = request.messages, self.settings.retries
        while True:
            text = ""
            try:
                reply = self._call(messages)
                text = self._clean(reply_text(reply))
                return request.parse(text), text, self._clean(str(getattr(reply, "model", None) or ""))
            except ValueError as error:
                if not left:
                    raise
                left -= 1
                messages = [*request.messages, *(_correction(text, str(error)) if text else [])]

    def _call(self, messages: Messages) -> Any:
        """One call; the client's own retries are not counted."""
        with self._lock:
            self.counts["calls"] += 1
        # As an extra body: not every version of the package knows every setting by name.
        return self._api.chat.completions.create(
            model=self.settings.model, messages=messages, extra_body=self._settings_sent
        )

    def _drop_setting(self, refusal: str) -> bool:
        """Give up one setting; False where none is left that the refusal can mean."""
        sent = dict(self._settings_sent)
        if "max_completion_tokens" in refusal and "max_tokens" in sent:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        elif "temperature" in refusal and "temperature" in sent:
            del sent["temperature"]
        elif not sent.pop("response_format", None):  # Not every server names what it does not know.
            return False
        self._settings_sent = sent
        return True

    def _failed(self, reason: str) -> Verdict:
        with self._lock:
            self.counts["failures"] += 1
        return Verdict(error=reason)

    def _note_failure(self, status: int, reason: str) -> None:
        """After several failures in a row no more calls are made: each would cost all its retries and waits."""
        with self._lock:
            self._failures_in_a_row = 0 if status in _BAD_REQUEST else self._failures_in_a_row + 1
            limit = max(_LEAST_FAILURES_IN_A_ROW, 2 * self.settings.workers)
            if status in _REFUSED or self._failures_in_a_row >= limit:
                self._down = f"not asked, because the judge had stopped answering: {reason}"

    def _reason(self, error: Exception) -> str:
        return self._clean(reason_of(error, self._key))

    def _clean(self, text: str) -> str:
        return encodable(without_key(text, self._key))


def _correction(answer: str, fault: str) -> Messages:
    request = f"That is not valid ({fault}). Reply again, with the JSON object alone, in the form that I asked for."
    return [{"role": "assistant", "content": answer[:1000]}, {"role": "user", "content": request}]
