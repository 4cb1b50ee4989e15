"""How a run is spread over processes and devices, and what does not work with ego tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import refuse
from ..settings import Settings


def check_sharding(settings: Settings) -> None:
    """Refuse what would hang or die after the weights have loaded.

    Raises:
        Ego2ExoError: FSDP, or a DeepSpeed config of ZeRO stage 3.
    """
    allowed, config = "torchrun alone, or --deepspeed with ZeRO stage 2", settings["deepspeed"]
    refuse(
        (settings["fsdp"], f"--fsdp {settings['fsdp']} with ego tokens: LLaVA cannot start a base with a vision tower "
         "that way", allowed, "leave --fsdp out"),
        (zero_stage(config) == 3, f"--deepspeed {config} with ego tokens: with ZeRO stage 3 the processes hung, or the "
         "loss was not finite", allowed, "set zero_optimization.stage to 2 in that file"),
    )  # fmt: skip


def zero_stage(config: Any) -> int:
    """The ZeRO stage of a DeepSpeed config; 0 where it says none or cannot be read (DeepSpeed says so itself).

    Args:
        config: a file's path, or a dict.
    """
    try:
        found = json.loads(Path(config).read_text()) if isinstance(config, (str, os.PathLike)) else config or {}
        return int(found.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError, TypeError):
        return 0


def data_parallel(settings: Settings) -> bool:
    """Whether transformers would split each batch among several GPUs of one process."""
    import torch

    alone = "LOCAL_RANK" not in os.environ and not settings["use_cpu"] and not settings["no_cuda"]
    return bool(alone and torch.cuda.device_count() > 1)
