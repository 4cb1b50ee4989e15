"""What tests of commands that ask a model share."""

import contextlib
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

from llava_ego2exo import cli
from llava_ego2exo.host.inference.settings import prompt


def command_line(command: str, given: dict) -> list[str]:
    """Flags of a dict: None leaves one out, True gives it without value, a list gives it several times."""
    parts = [command]
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            parts += [] if one is None else [f"--{name.replace('_', '-')}", *([] if one is True else str(one).split())]
    return parts


def files_in(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys) -> str:
    """What the console script says of an error."""
    return capsys.readouterr().err.split("llava-ego2exo: error: ")[-1]


def in_two_processes(command: list[str], logs: Path) -> list[tuple[int, str]]:
    """Exit code and output of two processes that run one command together, as torchrun would start them.

    Forked, so that neither imports anything: seconds less than torchrun itself.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def run(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        code = 1
        with (logs / f"process{rank}.txt").open("w", buffering=1) as file, contextlib.suppress(SystemExit):
            sys.stdout = sys.stderr = file
            code = cli.main(command)
        os._exit(code)

    processes = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [(process.exitcode, (logs / f"process{rank}.txt").read_text()) for rank, process in enumerate(processes)]


def generate(loaded, frames, question: str, template: str, new_tokens: int = 64) -> str:
    """Greedy answer to one question about one video, by LLaVA alone: what batched answers must equal."""
    from llava.mm_utils import tokenizer_image_token

    tokenizer, model = loaded[:2]
    ids = tokenizer_image_token(prompt(question, template), tokenizer, return_tensors="pt")[None].to(model.device)
    images = [frames.to(model.device, model.dtype)]
    with torch.inference_mode():
        out = model.generate(
            ids, images=images, modalities=["video"], do_sample=False, max_new_tokens=new_tokens, use_cache=True
        )
    return tokenizer.batch_decode(out, skip_special_tokens=True)[0].strip()
