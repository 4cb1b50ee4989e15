"""A question put to the judge until a valid answer comes, a bounded number of times."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .judge_client import CallFailed, Said
from .judge_prompts import Messages

# Further ones only lengthen the wait; the limit keeps 2 ** n small.
_DOUBLINGS = 10


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    Args:
        retries: further tries after the first.
        wait_s: before the second try, in seconds; doubled each time.
        max_wait_s: longest wait, in seconds.
        sleep: waits so many seconds.
    """

    retries: int
    wait_s: float
    max_wait_s: float
    sleep: Callable[[float], Any]

    def wait(self, number: int, asked_s: float) -> None:
        """Wait before a retry: at least as long as the server asks, but never beyond the bound.

        Args:
            number: of the try that failed, from 0.
            asked_s: what the server asks for, in seconds.
        """
        # Spread, so that workers that failed together do not come back together.
        own = self.wait_s * 2 ** min(number, _DOUBLINGS) * random.uniform(0.5, 1.0)
        wanted = max(own, asked_s if math.isfinite(asked_s) else 0.0)
        self.sleep(min(wanted, self.max_wait_s))


class GaveUp(Exception):
    """No valid answer came.

    Args:
        reason: of the last try.
        tries: made.
        server: the fault is the server's, not this question's.
        refused: the server takes no call at all.
    """

    def __init__(self, reason: str, tries: int, server: bool, refused: bool = False) -> None:
        super().__init__(reason if tries == 1 else f"{reason} ({tries} tries)")
        self.server, self.refused = server, refused


def persist(
    call: Callable[[Messages], Said], messages: Messages, read: Callable[[str], Any], patience: Patience
) -> tuple[Any, Said]:
    """The value that `read` finds in the judge's answer, and the answer.

    After an answer that is not valid the judge is shown what it said and what is wrong with it: the same question again
    would bring the same answer.

    Args:
        call: one call.
        messages: the question.
        read: answer -> value; raises ValueError.
        patience: how often, and with which waits.

    Raises:
        GaveUp: no try brought a valid answer.
    """
    asked, number = messages, 0
    while True:
        try:
            said = call(asked)
        except CallFailed as error:
            if number >= patience.retries or not error.passing:
                server = error.passing or error.refused
                raise GaveUp(str(error), number + 1, server, error.refused) from None
            patience.wait(number, error.wait_s)
        else:
            try:
                return read(said.text), said
            except ValueError as error:
                if number >= patience.retries:
                    raise GaveUp(f"no valid answer: {error}", number + 1, server=False) from None
                asked = [*messages, *_correction(said.text, str(error))]
        number += 1


def _correction(answer: str, fault: str) -> Messages:
    told = f"That is not valid ({fault}). Reply again, with the JSON object alone, in the form that I asked for."
    return [{"role": "assistant", "content": answer[:1000]}, {"role": "user", "content": told}]


class Breaker:
    """Keeps a server that has died from being asked thousands of times.

    Args:
        most: questions given up in a row, by the server's fault, after which no more are asked.
    """

    def __init__(self, most: int) -> None:
        self._most, self._row, self._guard = most, 0, threading.Lock()
        self.open = ""

    def note(self, fault: GaveUp | None) -> None:
        """What came of a question; None: an answer."""
        with self._guard:
            self._row = self._row + 1 if fault and fault.server else 0
            if fault and (fault.refused or self._row >= self._most):
                self.open = f"not asked, because the judge had stopped answering: {fault}"
