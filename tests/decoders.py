"""Decoders that fail: workers whose PyAV hangs or crashes if a file's name says so."""

from __future__ import annotations

from llava_ego2exo.video import worker

# What PyAV does with a file whose name contains the key.
FAULTS = {
    "does-hang": "time.sleep(300)",
    "does-crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "does-eat": "[numpy.empty(1 << 33, numpy.uint8) for _ in range(64)]",
    "does-linger": "[(time.sleep(0.5), worker.heartbeat()) for _ in range(6)]",
}
_PROGRAM = f"""
import os, signal, sys, time
import av, numpy
from llava_ego2exo.video import worker
original = av.open
def fail(path, *args, **kwargs):
    for name, fault in {FAULTS!r}.items():
        if name in path:
            eval(fault)
    return original(path, *args, **kwargs)
av.open = fail
worker.serve(sys.argv[1:])
"""


def failing_decoder(monkeypatch) -> None:
    """Let workers that start from now on fail as `FAULTS` says; other files are read as always."""
    monkeypatch.setattr(worker, "_PROGRAM", _PROGRAM)
