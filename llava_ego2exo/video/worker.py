"""Functions called in separate processes, which may hang, crash or run out of memory without harm to the run.

A request is a line of JSON on the worker's standard input, which is a socket. A reply is its size, JSON, and if the
function returned an array the descriptor of a file in memory with its bytes: nothing is unpickled, and frames are not
copied from process to process. Unlike children of `multiprocessing`, such a process can also be started by a data
loader's worker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

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
_SIZE = struct.Struct("<Q")  # bytes of the JSON


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
        self.close()

    def close(self) -> None:
        """End the idle workers that this process has started."""
        while self._idle:
            worker = self._idle.pop()
            if worker.owned():
                worker.kill()

    def call(
        self, function: Callable[..., Any], arguments: dict[str, Any], limits: VideoLimits, subject: str = ""
    ) -> tuple[Any, Any]:
        """Call a module's top-level function in a worker; its JSON values, and its array or None.

        The function makes its array by :func:`empty_array`. The worker is killed `video_limit_s` after the call or the
        last :func:`heartbeat`; `video_max_gib` limits its memory. Every error message begins with `subject`.

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
        self._socket, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *imports],
                stdin=other, stdout=other, stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
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
        """Whether the process runs and is this one's."""
        return self.owned() and self._process.poll() is None

    def owned(self) -> bool:
        """Whether this process has started it, and is no fork of the one that has."""
        return self._owner == os.getpid()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], limits: VideoLimits) -> tuple[Any, Any]:
        """The reply, and its array. TimeoutError, EOFError: there is none; after any error the process is killed."""
        request = {
            "module": function.__module__, "function": function.__name__, "arguments": arguments,
            "memory": 2 * limits.max_bytes + _SPARE_BYTES,
        }  # fmt: skip
        try:
            with contextlib.suppress(BrokenPipeError):  # reading gives the exit code
                self._socket.sendall(json.dumps(request).encode() + b"\n")
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
        reply = json.loads(self._read(_SIZE.unpack(self._read(_SIZE.size, deadline))[0], deadline))
        if reply.get("shape") is None:
            return reply, None
        self._wait(deadline)
        _, files, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not files:
            raise EOFError(f"exit code {self._process.wait()}")
        try:
            # A private copy of the pages that are written to: this process alone has the array.
            content = mmap.mmap(files[0], 0, access=mmap.ACCESS_COPY)
        finally:
            os.close(files[0])
        return reply, np.frombuffer(content, np.uint8).reshape(reply["shape"])

    def _wait(self, deadline: float) -> None:
        if not self._poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError("no answer in time")

    def _read(self, size: int, deadline: float) -> bytearray:
        buffer = bytearray(size)
        room = memoryview(buffer)
        while room:
            self._wait(deadline)
            try:
                count = self._socket.recv_into(room)
            except ConnectionResetError:
                count = 0
            if not count:
                raise EOFError(f"exit code {self._process.wait()}")
            room = room[count:]
        return buffer


_replies: socket.socket | None = None  # of a worker, to its caller
_array_file = -1  # descriptor of the last array's file
_last_heartbeat = 0.0


def serve(imports: list[str]) -> None:
    """The main program of a worker: answers requests until standard input ends."""
    global _replies
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Decoders print to file descriptor 1; only replies may reach the caller.
    _replies = socket.socket(fileno=os.dup(1))
    os.dup2(2, 1)
    try:
        for name in imports:
            importlib.import_module(name)
    except Exception as error:
        _reply({"failure": f"{type(error).__name__}: {short_reason(error)}"})
        return
    _reply({"failure": ""})
    for line in sys.stdin:
        _reply(_result(json.loads(line)))


def heartbeat() -> None:
    """Restart the time limit of a long call, at most once a second; outside a worker nothing happens."""
    global _last_heartbeat
    if _replies is not None and time.monotonic() > _last_heartbeat + 1:
        _last_heartbeat = time.monotonic()
        _reply({"heartbeat": True})


def empty_array(shape: tuple[int, ...]) -> Any:
    """A uint8 array that a function called by a pool may return: in a worker it lies in a file in memory."""
    import numpy as np

    global _array_file
    if _replies is None:
        return np.empty(shape, np.uint8)
    if _array_file >= 0:  # of a call that failed
        os.close(_array_file)
    _array_file = os.memfd_create("frames") if hasattr(os, "memfd_create") else os.dup(TemporaryFile().fileno())
    os.ftruncate(_array_file, prod(shape))
    return np.frombuffer(mmap.mmap(_array_file, 0), np.uint8).reshape(shape)


def short_reason(error: BaseException) -> str:
    """The last line of a decoder's error message, at most 160 characters."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[-160:]


def _result(request: dict[str, Any]) -> dict[str, Any]:
    try:
        function = getattr(importlib.import_module(request["module"]), request["function"])
        with contextlib.suppress(ValueError):  # the system's own limit is lower
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], resource.getrlimit(resource.RLIMIT_AS)[1]))
        result = function(**request["arguments"])
    except Ego2ExoError as error:
        return {"refused": [error.given, error.allowed, error.remedy]}
    except Exception as error:  # decoders raise anything at a broken file
        return _refusal(f"does not decode: {short_reason(error)}", "encode it again")
    result, array = result if isinstance(result, tuple) else (result, None)
    return {"result": result, "shape": None if array is None else array.shape}


def _refusal(given: str, remedy: str) -> dict[str, Any]:
    return {"refused": [given, "a file that ffmpeg plays", remedy]}


def _reply(message: dict[str, Any]) -> None:
    global _array_file
    text = json.dumps(message).encode()
    _replies.sendall(_SIZE.pack(len(text)) + text)  # type: ignore[union-attr]
    if message.get("shape") is not None:
        socket.send_fds(_replies, [b" "], [_array_file])  # type: ignore[list-item]
        os.close(_array_file)
        _array_file = -1
