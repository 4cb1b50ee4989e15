"""Commands in processes of their own, as many at once as keep every core busy."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Ego2ExoError


@dataclass(frozen=True)
class Job:
    """One command and where its output goes.

    Args:
        name: for messages.
        command: as typed, beginning with "python" or "llava-ego2exo".
        folder: working folder; the log is `<name>.log` in it.
        needs: names of jobs that must be done before.
    """

    name: str
    command: Sequence[str]
    folder: Path
    needs: frozenset[str] = frozenset()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


def shown(command: Sequence[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {part}" if part.startswith("--") else shlex.quote(part) for part in command)


def losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) as a training run's output tells them."""
    text = log.read_text(errors="replace") if log.exists() else ""
    logged = re.findall(r"'loss': '?([\d.e+-]+)", text)
    return [(10 * (index + 1), float(value)) for index, value in enumerate(logged)]


def run_all(jobs: Iterable[Job], say: Callable[[str], None], at_once: int | None = None, every: float = 30.0) -> None:
    """Run commands, some at a time, and say how far they are.

    Args:
        jobs: in this order, a job that waits for another one being passed over until then.
        say: prints one line.
        at_once: processes at the same time, one thread each; None takes one more than there are cores.
        every: seconds between two lines of progress.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, done, told = list(jobs), [], set(), time.monotonic()
    # Three alike on two cores end together, sooner than two of them and then the third on one core alone.
    at_once = at_once or usable_cores() + 1
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs <= done][: at_once - len(running)]:
                waiting.remove(job)
                running.append((job, _start(job)))
            time.sleep(0.2)
            for job, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((job, process))
                done.add(job.name)
                if process.returncode:
                    raise _failed(job, process.returncode)
            if running and time.monotonic() - told > every:
                told = time.monotonic()
                say("; ".join(_progress(job) for job, _ in running))
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def usable_cores() -> int:
    """Cores this process may run on, or all there are where the system cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(job: Job) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    # Small matrices are faster on one thread, and two runs side by side use two cores better than one run does.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, *job.command[1:]]
    if job.command[0] == "llava-ego2exo":
        program = [sys.executable, "-m", "llava_ego2exo", *job.command[1:]]
    with job.log.open("wb") as stream:
        return subprocess.Popen(program, cwd=job.folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def _progress(job: Job) -> str:
    known = losses(job.log)
    return f"{job.name}: step {known[-1][0]}, loss {known[-1][1]:.3f}" if known else f"{job.name}: running"


def _failed(job: Job, code: int) -> Ego2ExoError:
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "error: " in line), None)
    return Ego2ExoError(
        f"{job.name} ended with exit code {code}: {told or ' / '.join(lines[-5:])}", "", f"read all of it in {job.log}"
    )
