"""One process of a torchrun: trains as the arguments say, once for each `--` group, and stores the gradients."""

import sys
from pathlib import Path

import pytest
import torch


def main(out: Path, groups: list[list[str]]) -> None:
    import llava_ego2exo

    llava_ego2exo.register()
    from accelerate.state import AcceleratorState
    from llava.train import train as host

    from tests.host.training.distillation import recorded_gradients

    torch.set_num_threads(1)
    found = []
    for arguments in groups:
        AcceleratorState._reset_state(True)
        sys.argv = ["train", *arguments]
        torch.manual_seed(0)
        with recorded_gradients(pytest.MonkeyPatch()) as steps:
            host.train()
        found.append(steps)
    torch.save(found, out / f"gradients-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    words, groups = sys.argv[2:], [[]]
    for word in words:
        groups.append([]) if word == "--" else groups[-1].append(word)
    main(Path(sys.argv[1]), groups)
