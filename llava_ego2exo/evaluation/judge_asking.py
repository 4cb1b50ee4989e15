"""Many questions to a judge: each different one asked once, from the cache where it can be, on several threads."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError
from ..runs.progress import run_all
from .judge_cache import JudgeCache, Kept
from .judge_client import CallFailed, JudgeClient
from .judge_prompts import PROMPT_VERSION, Messages, check
from .judge_retry import Breaker, GaveUp, Patience, persist
from .judge_settings import JudgeSettings, shown_url
from .replies import reply_key

_LEAST_IN_A_ROW = 8


@dataclass(frozen=True)
class Question:
    """One question to the judge.

    Args:
        kind: what is asked: an aspect, "merge" or "choice".
        messages: as they are sent.
        read: answer -> value; raises ValueError where it is not valid.
    """

    kind: str
    messages: Messages
    read: Callable[[str], Any]


@dataclass(frozen=True)
class Verdict:
    """What came of a question.

    Args:
        value: as read; None too where the judge failed.
        error: why it failed; "" otherwise.
    """

    value: Any = None
    error: str = ""


class Asker:
    """Asks one judge.

    Args:
        settings: of the judge.
        folder: where its answers are kept.
        sleep: waits so many seconds.
        progress: show bars.
        only_kept: ask nobody; what the cache does not hold is lost.
    """

    def __init__(
        self, settings: JudgeSettings, folder: str | Path, sleep: Callable[[float], Any], progress: bool,
        only_kept: bool = False,
    ) -> None:  # fmt: skip
        self.settings, self.progress, self.only_kept = settings, progress, only_kept
        self.cache = JudgeCache(folder)
        self.counts: Counter[str] = Counter()
        # What the answers in use were got with, as JSON: a dict has no order among others.
        self.sent: dict[str, dict[str, Any]] = {}
        self.models: set[str] = set()
        self._patience = Patience(settings.retries, settings.wait_s, settings.max_wait_s, sleep)
        self._breaker = Breaker(max(_LEAST_IN_A_ROW, 2 * settings.workers))
        self._client: JudgeClient | None = None
        self._guard = threading.Lock()

    @property
    def calls(self) -> int:
        """Calls made, retries included."""
        return self._client.calls if self._client else 0

    def ask(self, questions: Sequence[Question], what: str) -> list[Verdict]:
        """A verdict for each question, in their order.

        Args:
            questions: the same one may stand several times.
            what: shown before the bar.

        Raises:
            Ego2ExoError: the endpoint cannot be reached, or takes no call.
        """
        keys = [self._key(question) for question in questions]
        different = dict(zip(keys, questions, strict=True))
        verdicts = {key: found for key, question in different.items() if (found := self._known(key, question))}
        self.counts["cache_hits"] += len(verdicts)
        rest = [(key, question) for key, question in different.items() if key not in verdicts]
        if rest and self.only_kept:
            lost = "not judged yet: give --judge-url and --judge-model"
            verdicts.update((key, self._lost(lost)) for key, _ in rest)
        elif rest:
            if self._client is None:
                self.contact()
            made = run_all(self._one, rest, self.settings.workers, what, "question", self.progress)
            verdicts.update(zip((key for key, _ in rest), made, strict=True))
        return [verdicts[key] for key in keys]

    def contact(self) -> None:
        """One small call that shows whether the judge answers, and which settings its server takes.

        Raises:
            Ego2ExoError: it does not answer.
        """
        client, number = self._client or JudgeClient(self.settings), 0
        while True:
            try:
                client.settle(check())
            except CallFailed as error:
                if number >= self.settings.retries or not error.passing or error.nobody:
                    client.close()
                    raise _no_judge(self.settings, error) from None
                self._patience.wait(number, error.wait_s)
            else:
                self._client = client
                return
            number += 1

    def close(self) -> None:
        """Close the cache and the connections."""
        self.cache.close()
        if self._client is not None:
            self._client.close()

    def _key(self, question: Question) -> str:
        return reply_key([PROMPT_VERSION, self.settings.model, question.messages, self.settings.asked()])

    def _known(self, key: str, question: Question) -> Verdict | None:
        kept = self.cache.get(key)
        if kept is None:
            return None
        try:
            verdict = Verdict(question.read(kept.answer))
        except ValueError:
            return None
        self._note(kept)
        return verdict

    def _one(self, job: tuple[str, Question]) -> Verdict:
        key, question = job
        assert self._client is not None
        if self._breaker.open:
            return self._lost(self._breaker.open)
        try:
            value, said = persist(self._client.call, question.messages, question.read, self._patience)
        except GaveUp as error:
            self._breaker.note(error)
            return self._lost(str(error))
        self._breaker.note(None)
        kept = Kept(key, question.kind, said.text, said.model, said.sent)
        self.cache.add(kept)
        self._note(kept)
        return Verdict(value)

    def _lost(self, error: str) -> Verdict:
        with self._guard:
            self.counts["failures"] += 1
        return Verdict(error=error)

    def _note(self, kept: Kept) -> None:
        with self._guard:
            self.sent[json.dumps(kept.sent, sort_keys=True)] = kept.sent
            self.models.add(kept.model)


def _no_judge(settings: JudgeSettings, error: CallFailed) -> Ego2ExoError:
    url = shown_url(settings.url)
    if error.status in (401, 403):
        remedy = f"put a key that this server takes into {settings.key_env} (--judge-key-env names another variable)"
    elif error.status == 404:
        remedy = (
            f"mend --judge-model (the server lists its models at {url.rstrip('/')}/models; Ollama gets one by `ollama "
            f"pull {settings.model}`) or --judge-url, which mostly ends in /v1"
        )
    elif error.status == 200:
        remedy = "check that --judge-url is such an endpoint, which mostly ends in /v1, and that the model can chat"
    elif error.status:
        remedy = "see the server's log, and run the same command again"
    elif error.nobody:
        remedy = "start the server (Ollama: `ollama serve`), or mend --judge-url"
    else:
        remedy = "run the same command again when the server has loaded its model, or give a smaller one"
    return Ego2ExoError(
        f"--judge-url {url} with --judge-model {settings.model}: {error}",
        "an OpenAI-compatible endpoint that answers",
        remedy,
    )
