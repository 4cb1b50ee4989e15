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


def require_own_loss(settings: Settings, flag: str, reason: str) -> None:
    """Some flags need the loss of our own trainer, on batches that nothing splits.

    Args:
        settings: the run's.
        flag: with its value.
        reason: what would go wrong.

    Raises:
        Ego2ExoError: another trainer, label smoothing, or several GPUs in one process.
    """
    import torch

    trainer, smoothing = settings["trainer_type"], settings["label_smoothing_factor"]
    alone = "LOCAL_RANK" not in os.environ and not settings["use_cpu"] and not settings["no_cuda"]
    cases = (
        (trainer not in (None, "ego2exo"), f"--trainer_type {trainer}", "leave it out"),
        (smoothing, f"--label_smoothing_factor {smoothing}", "leave it out"),
        (alone and torch.cuda.device_count() > 1, "several GPUs in one process (DataParallel)",
         "start with torchrun, or show one GPU (CUDA_VISIBLE_DEVICES=0)"),
    )  # fmt: skip
    allowed = "each without the other"
    refuse(*((holds, f"{flag} with {other}: {reason}", allowed, remedy) for holds, other, remedy in cases))
