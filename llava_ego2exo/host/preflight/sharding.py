"""Ways to shard a model over processes that were tried with ego tokens and do not work; they are refused at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import Ego2ExoError
from ..settings.command_line import Settings

_ALLOWED = "torchrun alone, or --deepspeed with ZeRO stage 2"


def check_sharding(settings: Settings) -> None:
    """Refuse what would hang or die after the weights have loaded.

    Raises:
        Ego2ExoError: FSDP, or a DeepSpeed config of ZeRO stage 3.
    """
    if settings["fsdp"]:
        raise Ego2ExoError(
            f"--fsdp {settings['fsdp']} with ego tokens: LLaVA itself cannot start a base that has a vision tower so",
            _ALLOWED,
            "leave --fsdp out",
        )
    if zero_stage(settings["deepspeed"]) == 3:
        raise Ego2ExoError(
            f"--deepspeed {settings['deepspeed']} with ego tokens: tried with ZeRO stage 3, the processes waited for "
            "each other without end, or the loss was not finite",
            _ALLOWED,
            "set zero_optimization.stage to 2 in that file",
        )


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
