"""Commands in processes that die by SIGKILL while they write, or that torchrun starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import llava_ego2exo
from llava_ego2exo import cli
from llava_ego2exo.common.jsonl import AppendFile


def killed_at(command: list[str], batch: int, kept: int) -> int:
    """Exit code of a command that dies while it writes batch number `batch` of its part file, `kept` bytes into it."""

    def run() -> None:
        original, count = AppendFile.append, [0]

        def append(self, records):
            count[0] += ".part-" in self.path.name
            size = self.path.stat().st_size
            original(self, records)
            if count[0] == batch:
                os.truncate(self.path, size + kept)
                os.kill(os.getpid(), signal.SIGKILL)

        AppendFile.append = append
        os._exit(cli.main(command))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(120)
    return process.exitcode


def on_two_processes(command: list[str]) -> subprocess.CompletedProcess:
    """The console script's command under torchrun, with this very package."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    run = [*launch, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "-m", "llava_ego2exo"]
    path = os.pathsep.join([str(Path(llava_ego2exo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([*run, *command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
