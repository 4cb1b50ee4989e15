"""Commands in processes that die by SIGKILL while they write, or that torchrun starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import llava_ego2exo
from llava_ego2exo import cli


def killed_at(command: list[str], store: type, batch: int, kept: int) -> int:
    """Exit code of a process that dies while it writes its batch number `batch`, `kept` bytes into it.

    Args:
        command: of the console script.
        store: the class that appends; its instances have a `path`.
        batch: counted from 1.
        kept: bytes.
    """

    def run() -> None:
        original, count = store.append, [0]

        def append(self, records):
            count[0] += 1
            size = self.path.stat().st_size
            original(self, records)
            if count[0] == batch:
                os.truncate(self.path, size + kept)
                os.kill(os.getpid(), signal.SIGKILL)

        store.append = append
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
