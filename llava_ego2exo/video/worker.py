"""Functions called in separate processes, which may hang, crash or run out of memory without harm to the run.

A request is a line of JSON on the worker's standard input. A reply is two sizes, JSON, and the bytes of an array if the
function returned one, so nothing is unpickled. Unlike children of `multiprocessing`, such a process can also be started
by a data loader's worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from .limits import VideoLimits, raising

if TYPE_CHECKING:  # in `typing` from Python 3.11 on
    from typing_extensions import Self

_PROGRAM = "import sys; from llava_ego2exo.video.worker import serve; serve(sys.argv[1:])"
_PACKAGE_ROOT = str(Path(__file__).parents[2])
# Importing decoders from a slow disk is not the video's fault.
_START_S = 120.0
# What a decoder may need besides the frames it returns: reference frames and libraries.
_SPARE_BYTES = 8 << 30
# Schedulers and terminals send these to every process of a job; workers end with the run, when their input ends.
_IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PIPE_BYTES = 1 << 20
_SIZES = struct.Struct("<QQ")  # bytes of the JSON and of the array


class WorkerPool:
    """As many workers as concurrent callers, kept for the next call; they end with this process or a `with` block.

    A worker first imports the modules `imports`; the time this takes is not limited by the video's.
    """

    def __init__(self, *imports: str) -> None:
        self.imports = imports
        self._idle: deque[_Worker] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().kill()

    def call(
        self, function: Callable[..., Any], arguments: dict[str, Any], limits: VideoLimits, subject: str = ""
    ) -> tuple[Any, Any]:
        """Call a module's top-level function in a worker; its JSON values, and its uint8 array or None.

        The worker is killed `video_limit_s` after the call or the last :func:`heartbeat`; `video_max_gib` limits its
        memory. Every error message begins with `subject`.

        Raises:
            Ego2ExoError: the function raised it, failed, hung or crashed; or no worker starts.
        """
        worker, array = self._take(), None
        try:
            reply, array = worker.call(function, arguments, limits)
        except TimeoutError:
            reply = _refusal(f"does not decode within {limits.video_limit_s:g} s", raising("video_limit_s"))
        except EOFError as error:
            reply = _refusal(f"crashes the decoder ({error})", "encode it again, or remove it")
        else:
            self._idle.append(worker)
        if "refused" in reply:
            given, allowed, remedy = reply["refused"]
            raise Ego2ExoError(f"{subject} {given}".strip(), allowed, remedy)
        return reply["result"], array

    def _take(self) -> _Worker:
        with contextlib.suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.usable():
                    return worker
        return _Worker(self.imports)


class _Worker:
    def __init__(self, imports: tuple[str, ...]) -> None:
        self._owner = os.getpid()
        paths = os.pathsep.join(dict.fromkeys([_PACKAGE_ROOT, *filter(None, sys.path)]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *imports],
            bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        # Frames pass with fewer switches between the processes; only Linux can, and only up to a user's maximum.
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]
        self._poll = select.poll()
        self._poll.register(self._process.stdout, select.POLLIN)
        try:
            reason = self._receive(_START_S)[0]["failure"]
        except (TimeoutError, EOFError) as error:
            reason = str(error)
        if reason:
            self.kill()
            raise Ego2ExoError(
                f"the process that decodes videos does not start: {reason}",
                f"{' and '.join(imports)} that can be imported together",
                f"see what this prints: {sys.executable} -c 'import {', '.join(imports)}'",
            )

    def usable(self) -> bool:
        """Whether the process runs, and is not that of the process this one was forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], limits: VideoLimits) -> tuple[Any, Any]:
        """The reply, and its array. TimeoutError, EOFError: there is none; after any error the process is killed."""
        request = {
            "module": function.__module__, "function": function.__name__, "arguments": arguments,
            "memory": 2 * limits.max_bytes + _SPARE_BYTES,
        }  # fmt: skip
        try:
            with contextlib.suppress(BrokenPipeError):  # reading gives the exit code
                self._process.stdin.write(json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            while True:
                reply, array = self._receive(limits.video_limit_s)
                if "heartbeat" not in reply:
                    return reply, array
        except BaseException:
            self.kill()
            raise

    def _receive(self, limit_s: float) -> tuple[dict[str, Any], Any]:
        import numpy as np

        deadline = time.monotonic() + limit_s
        head, size = _SIZES.unpack(self._read(bytearray(_SIZES.size), deadline))
        reply = json.loads(self._read(bytearray(head), deadline))
        return reply, self._read(np.empty(reply["shape"], np.uint8), deadline) if size else None

    def _read(self, buffer: Any, deadline: float) -> Any:
        room = memoryview(buffer).cast("B")
        while room:
            if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise TimeoutError("no answer in time")
            count = self._process.stdout.readinto(room)  # type: ignore[union-attr]
            if not count:
                raise EOFError(f"exit code {self._process.wait()}")
            room = room[count:]
        return buffer


_replies: IO[bytes] | None = None  # of a worker, to its caller
_last_heartbeat = 0.0


def serve(imports: list[str]) -> None:
    """The main program of a worker: answers requests until standard input ends."""
    global _replies
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Decoders print to file descriptor 1; only replies may reach the caller.
    _replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        for name in imports:
            importlib.import_module(name)
    except Exception as error:
        _reply({"failure": f"{type(error).__name__}: {short_reason(error)}"})
        return
    _reply({"failure": ""})
    for line in sys.stdin:
        _reply(*_result(json.loads(line)))


def heartbeat() -> None:
    """Restart the time limit of a long call, at most once a second; outside a worker nothing happens."""
    global _last_heartbeat
    if _replies is not None and time.monotonic() > _last_heartbeat + 1:
        _last_heartbeat = time.monotonic()
        _reply({"heartbeat": True})


def short_reason(error: BaseException) -> str:
    """The last line of a decoder's error message, at most 160 characters."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[-160:]


def _result(request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    try:
        function = getattr(importlib.import_module(request["module"]), request["function"])
        with contextlib.suppress(ValueError):  # the system's own limit is lower
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], resource.getrlimit(resource.RLIMIT_AS)[1]))
        result = function(**request["arguments"])
    except Ego2ExoError as error:
        return {"refused": [error.given, error.allowed, error.remedy]}, None
    except Exception as error:  # decoders raise anything at a broken file
        return _refusal(f"does not decode: {short_reason(error)}", "encode it again"), None
    result, array = result if isinstance(result, tuple) else (result, None)
    return {"result": result, "shape": None if array is None else array.shape}, array


def _refusal(given: str, remedy: str) -> dict[str, Any]:
    return {"refused": [given, "a file that ffmpeg plays", remedy]}


def _reply(message: dict[str, Any], array: Any = None) -> None:
    text = json.dumps(message).encode()
    _replies.write(_SIZES.pack(len(text), 0 if array is None else array.nbytes) + text)  # type: ignore[union-attr]
    if array is not None:
        _replies.write(array.data.cast("B"))  # type: ignore[union-attr]
    _replies.flush()  # type: ignore[union-attr]
