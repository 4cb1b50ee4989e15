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
class Command:
    """One command and where its output goes.

    Args:
        name: for messages.
        words: as typed, beginning with "python" or "llava-ego2exo".
        folder: working folder; the log is `<name>.log` in it.
        needs: names of commands that must be done before.
    """

    name: str
    words: Sequence[str]
    folder: Path
    needs: frozenset[str] = frozenset()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"


def shell_text(words: Sequence[str]) -> str:
    """A command line as it can be pasted into a shell, one flag a line."""
    return " ".join(f"\\\n    {word}" if word.startswith("--") else shlex.quote(word) for word in words)


def losses(log: Path) -> list[tuple[int, float]]:
    """(step, loss) as a training run logs them, every ten steps."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return [(10 * count, float(value)) for count, value in enumerate(re.findall(r"'loss': '?([\d.e+-]+)", text), 1)]


def usable_cores() -> int:
    """Cores this process may run on, or all there are where the system cannot tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    commands: Iterable[Command], say: Callable[[str], None], at_once: int | None = None, every: float = 30.0
) -> None:
    """Run commands, some at a time, and report their progress.

    Args:
        commands: in this order, but that one waits until what it needs is done.
        say: prints one line.
        at_once: processes at the same time, one thread each; None takes one more than there are cores.
        every: seconds between two lines of progress.

    Raises:
        Ego2ExoError: a command failed; the others are ended, and the end of its output is in the message.
    """
    waiting, running, done, reported = list(commands), {}, set(), time.monotonic()
    # Three alike on two cores end together, sooner than two of them and then the third on one core alone.
    at_once = at_once or usable_cores() + 1
    try:
        while waiting or running:
            for command in [one for one in waiting if one.needs <= done][: at_once - len(running)]:
                waiting.remove(command)
                running[command.name] = command, _start(command)
            time.sleep(0.2)
            for command, process in [pair for pair in running.values() if pair[1].poll() is not None]:
                del running[command.name]
                done.add(command.name)
                if process.returncode:
                    raise _failed(command, process.returncode)
            if running and time.monotonic() - reported > every:
                reported = time.monotonic()
                say("; ".join(_progress(command) for command, _ in running.values()))
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def _start(command: Command) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)
    # Small matrices are faster on one thread, and two runs side by side use two cores better than one run does.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ours = ["-m", "llava_ego2exo"] if command.words[0] == "llava-ego2exo" else []
    program = [sys.executable, *ours, *command.words[1:]]
    with command.log.open("wb") as stream:
        return subprocess.Popen(program, cwd=command.folder, env=environment, stdout=stream, stderr=subprocess.STDOUT)


def _progress(command: Command) -> str:
    known = losses(command.log)
    return f"{command.name}: " + (f"step {known[-1][0]}, loss {known[-1][1]:.3f}" if known else "running")


def _failed(command: Command, code: int) -> Ego2ExoError:
    lines = [line for line in command.log.read_text(errors="replace").splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if "error: " in line), " / ".join(lines[-5:]))
    return Ego2ExoError(f"{command.name} ended with exit code {code}: {error}", "", f"read all of it in {command.log}")
