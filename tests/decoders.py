"""Decoders that go wrong: a reader process that hangs, crashes or lies when a file's name says so."""

from __future__ import annotations

import sys
from pathlib import Path

from llava_ego2exo.video import worker

# What a decoder does at a file whose name holds the key; `hold` sleeps without giving up Python's lock.
FAULTS = {
    "does-hang": "time.sleep(300)",
    "does-hold": "ctypes.PyDLL(None).sleep(300)",
    "does-crash": "os.kill(os.getpid(), signal.SIGSEGV)",
    "does-abort": "os.abort()",
    "does-leave": "os._exit(0)",
    "does-eat": "import numpy; kept = [numpy.empty(1 << 33, numpy.uint8) for _ in range(64)]",
    "does-lie": "desk._answers.write('no JSON\\n'); desk._answers.flush(); time.sleep(300)",
    "does-boast": "return {'shape': [1 << 20, 1 << 20, 3], 'first': 0, 'last': 1, 'sampled': [0], 'rate': 1.0}",
    "does-owe": "return {'shape': [1, 64, 64, 3], 'first': 0, 'last': 1, 'sampled': [0], 'rate': 1.0}",
}
# Slow, but it says that it goes on.
_SLOW = {"does-linger": "[(time.sleep(0.5), desk.alive()) for _ in range(6)]"}


def strange_decoder(monkeypatch, folder: Path, module: str) -> None:
    """Let every process that runs `module` fail as `FAULTS` says; other files are read as always.

    Args:
        monkeypatch: pytest's.
        folder: for the program.
        module: dotted name.
    """
    lines = [
        "import ctypes, importlib, json, os, signal, sys, time",
        f"entry = importlib.import_module({module!r})",
        "real = entry.answer",
        "def answer(request, desk):",
        "    asked = json.dumps(request)",
        *(f"    if {name!r} in asked:\n        {fault}" for name, fault in {**FAULTS, **_SLOW}.items()),
        "    return real(request, desk)",
        "entry.answer = answer",
        "entry.main()",
    ]
    program = folder / "strange_decoder.py"
    program.write_text("\n".join(lines) + "\n")
    original = worker.Worker._command

    def command(self: worker.Worker) -> list[str]:
        return [sys.executable, str(program)] if self.module == module else original(self)

    monkeypatch.setattr(worker.Worker, "_command", command)
