"""Probe many files, each in a process that may hang or crash without harm."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import Ego2ExoError
from ..runs.progress import run_all
from ..decoding.av_import import require_av
from .probing import Probe

_PACKAGE_ROOT = str(Path(__file__).parents[2])


def probe_files(
    paths: Sequence[str], workers: int = 0, limit_s: float = 120.0, progress: bool = True
) -> dict[str, Probe]:
    """path -> what it holds, for each different path.

    Args:
        paths: video files.
        workers: processes at a time; 0: one a processor, at most 8.
        limit_s: seconds that one file may take; then its process is killed and the file counts as faulty.
        progress: show a progress bar.

    Raises:
        Ego2ExoError: PyAV is missing, or a number is not positive.
    """
    require_av()
    if limit_s <= 0 or workers < 0:
        raise Ego2ExoError(
            f"--limit {limit_s:g}, --workers {workers}", "a limit above 0, workers not below 0", "mend the number"
        )
    paths = list(dict.fromkeys(paths))
    workers = min(workers or min(os.cpu_count() or 1, 8), max(len(paths), 1))
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    team = [_Worker(limit_s) for _ in range(workers)]
    for worker in team:
        idle.put(worker)

    def run(path: str) -> Probe:
        worker = idle.get()
        try:
            return worker.probe(path)
        finally:
            idle.put(worker)

    try:
        results = run_all(run, paths, workers, "probing", "file", progress)
    finally:
        for worker in team:
            worker.stop()
    return dict(zip(paths, results, strict=True))


class _Worker:
    """One process that runs `probing.main`; started when needed, replaced after a crash or a hang."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.process: subprocess.Popen[str] | None = None

    def probe(self, path: str) -> Probe:
        process = self._start()
        # Where it has died, reading says so.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(path) + "\n")
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self.limit_s):
                self.stop()
                return Probe(error=f"does not decode within {self.limit_s:g} s")
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self.stop()
            return Probe(error=f"crashes the decoder (exit code {code})")
        return Probe(**json.loads(answer))

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.stdout.close()
        self.process = None

    def _start(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            paths = [_PACKAGE_ROOT, os.environ.get("PYTHONPATH", "")]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llava_ego2exo.distill.probing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        return self.process
