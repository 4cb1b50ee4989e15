"""One process that answers requests, stopped from outside when it takes too long; it may crash without harm.

Requests and answers are lines of JSON. What is large (frames) passes through a file in memory that both hold, so that
nothing foreign is unpickled and nothing waits on a pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..errors import Ego2ExoError

_PACKAGE_ROOT = str(Path(__file__).parents[2])
# Starting is not the video's fault, and may take long where packages lie on a slow disk.
_START_S = 120.0
_LONGEST_LINE = 1 << 26
# Shared memory that is kept from one clip to the next, as new memory costs time; more is given back.
_KEPT_BYTES = 1 << 27
STAMP_BYTES = 8


class Stopped(Exception):
    """The process hung or crashed.

    Args:
        reason: which, to be read after a file's name.
        late: whether more time might have helped.
    """

    def __init__(self, reason: str, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


class Worker:
    """A process that runs a module with `serving.serve`; started when needed, replaced after a crash or a hang.

    Args:
        module: its dotted name.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._shared: int | None = None
        self._unread, self._stamp = bytearray(), b""

    def ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer to one request.

        Args:
            request: of JSON values.
            limit_s: seconds without an answer, or a sign that the work goes on, after which the process is stopped.

        Raises:
            Stopped: it hung or crashed.
            Ego2ExoError: it does not even start.
        """
        process = self._start()
        self._stamp = os.urandom(STAMP_BYTES)
        line = json.dumps({**request, "limit_s": limit_s, "stamp": self._stamp.hex()}).encode() + b"\n"
        # Where it has died, reading says so.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line)
        while True:
            answer = self._answer(limit_s)
            if "alive" not in answer:
                return answer

    def frames(self, shape: list[int], most_bytes: int) -> Any:
        """The uint8 array of this shape that came with the last answer.

        Args:
            shape: of the array.
            most_bytes: what it may take.

        Raises:
            Stopped: it is not there.
        """
        import numpy as np

        size = 1
        for side in shape:
            size *= side if isinstance(side, int) and side > 0 else 0
        if not 0 < size <= most_bytes:
            raise self._stopped("makes the decoder answer wrongly")
        found = np.empty(shape, np.uint8)
        self._take(memoryview(found.reshape(-1)), 0)
        # What an earlier answer left there must never be taken for the frames of this one.
        stamp = bytearray(STAMP_BYTES)
        self._take(memoryview(stamp), size)
        if stamp != self._stamp:
            raise self._stopped("makes the decoder answer wrongly")
        if size > _KEPT_BYTES:
            os.ftruncate(self._shared, 0)
        return found

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Let go of the process without ending it, as after a fork, where it is the parent's."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
        if self._shared is not None:
            os.close(self._shared)
        self._process, self._shared = None, None
        self._unread.clear()

    def _take(self, room: memoryview, start: int) -> None:
        """Fill `room` from the shared memory. It is read, not mapped: a process that shrinks it cannot hurt us."""
        done = 0
        while done < len(room):
            count = os.preadv(self._shared, [room[done:]], start + done)
            if not count:
                raise self._stopped("makes the decoder answer wrongly")
            done += count

    def _answer(self, limit_s: float) -> dict[str, Any]:
        line = self._line(time.monotonic() + limit_s)
        if line is None:
            raise self._stopped(f"does not decode within {limit_s:g} s", late=True)
        if not line:
            raise self._stopped(f"crashes the decoder (exit code {self._process.wait()})")
        answer = _object(line)
        if answer is None:
            raise self._stopped("makes the decoder answer wrongly")
        return answer

    def _line(self, deadline: float) -> bytes | None:
        """One line; None where it does not come in time, nothing where the process has ended."""
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            part = os.read(fd, 1 << 16)
            if not part or len(self._unread) > _LONGEST_LINE:
                return b""
            self._unread += part
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread[:] = rest
        return line

    def _stopped(self, reason: str, late: bool = False) -> Stopped:
        self.stop()
        return Stopped(reason, late)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._shared = _memory()
            self._process = subprocess.Popen(
                [*self._command(), str(self._shared), str(os.getpid())],
                bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                pass_fds=[self._shared], env=_environment(),
            )  # fmt: skip
            self._greeted()
        return self._process

    def _greeted(self) -> None:
        """Wait until it is ready; that it does not start is no fault of a video."""
        line = self._line(time.monotonic() + _START_S)
        ready = _object(line or b"")
        if ready == {"ready": True}:
            return
        if line is None:
            why = f"no answer in {_START_S:g} s"
        else:
            why = (ready or {}).get("broken", f"answers {line[:80]!r}") if line else f"exit code {self._process.wait()}"
        self.stop()
        raise Ego2ExoError(
            f"the process that decodes videos does not start: {why}",
            "decord and PyAV that can be imported side by side",
            f"look at what this prints: {sys.executable} -c 'import {self.module}, av, decord'",
        )

    def _command(self) -> list[str]:
        return [sys.executable, "-m", self.module]


def _object(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object; None where it holds no such."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _memory() -> int:
    """A file in memory, or on disk where the system knows no such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("llava-ego2exo")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> dict[str, str]:
    """The same modules as here, and none from the folder that we happen to be in; few arenas and threads."""
    paths = dict.fromkeys([_PACKAGE_ROOT, *filter(None, sys.path)])
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1",
        "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
