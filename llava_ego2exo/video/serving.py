"""The side of the process that decodes: answers requests until nobody is left to ask."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import Ego2ExoError

# A process that holds Python's lock ends by the kernel's alarm, so much later than it would be killed from outside.
_GRACE_S = 2.0
# What a decoder may need beside the frames that it hands back: its reference frames, and libraries.
_SPARE_BYTES = 8 << 30
# Whoever is asked to end decides for us: we end with it.
_NOT_OURS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Desk:
    """What answers go through.

    Args:
        shared: file descriptor of the memory for what is large.
        parent: the process that asks.
    """

    def __init__(self, shared: int, parent: int) -> None:
        self.shared, self.parent = shared, parent
        self.limit_s, self._told, self._stamp = 0.0, 0.0, b""
        # Decoders write to file descriptors 1 and 2 on their own; only our answers may reach the reader.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._bytes = _size()

    def say(self, answer: dict[str, Any]) -> None:
        """Send one line."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def alive(self) -> None:
        """Work goes on: the time limit begins anew. Told once a second at most."""
        now = time.monotonic()
        if now - self._told >= 1:
            self._told = now
            self._alarm(self.limit_s + _GRACE_S)
            self.say({"alive": True})

    def share(self, array: Any) -> None:
        """Hand over a uint8 array beside the answer, and behind it what proves that it belongs to this request."""
        done = 0
        for part in (memoryview(array.reshape(-1)), memoryview(self._stamp)):
            while part:
                count = os.pwrite(self.shared, part, done)
                part, done = part[count:], done + count

    def begin(self, request: dict[str, Any]) -> None:
        """Bound what one answer may take."""
        self.limit_s, self._stamp = request["limit_s"], bytes.fromhex(request["stamp"])
        self._alarm(self.limit_s + _GRACE_S)
        most = self._bytes + 2 * request.get("most_bytes", 0) + _SPARE_BYTES
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))

    def end(self) -> None:
        """Nothing is to be bounded until the next request."""
        self._alarm(0)

    @staticmethod
    def _alarm(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def serve(prepare: Callable[[], object], answer: Callable[[dict[str, Any], Desk], dict[str, Any]]) -> None:
    """Answer requests on standard input, a line of JSON each, until it ends.

    Args:
        prepare: called first; imports what is needed.
        answer: gives the answer to one request. What it raises is sent as `refused`: given, allowed, remedy.
    """
    desk = Desk(int(sys.argv[1]), int(sys.argv[2]))
    _stand_back(desk.parent)
    try:
        prepare()
    except Exception as error:
        desk.say({"broken": f"{type(error).__name__}: {short_reason(error)}"})
        return
    desk.say({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        desk.begin(request)
        try:
            found = answer(request, desk)
        except Ego2ExoError as error:
            found = {"refused": [error.given, error.allowed, error.remedy]}
        except Exception as error:
            # Whatever a decoder throws at a strange file is the answer here.
            found = {"refused": [f"does not decode: {short_reason(error)}", "", ""]}
        desk.end()
        desk.say(found)


def short_reason(error: BaseException) -> str:
    """What a decoder says, in one line."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[-160:]


def _stand_back(parent: int) -> None:
    """Live and die with the parent; be the first to go where memory ends."""
    for name in _NOT_OURS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    threading.Thread(target=_follow, args=[parent], daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _size() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0
