"""One process of a torchrun: trains as the arguments say, and stores the gradients."""

import sys
from pathlib import Path

import pytest
import torch


def main(out: Path, arguments: list[str]) -> None:
    import llava_ego2exo

    llava_ego2exo.register()
    from llava.train import train as host

    from tests.host.training.distillation import recorded_gradients

    torch.set_num_threads(1)
    sys.argv = ["train", *arguments]
    torch.manual_seed(0)
    with recorded_gradients(pytest.MonkeyPatch()) as steps:
        host.train()
    torch.save(steps, out / f"gradients-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
