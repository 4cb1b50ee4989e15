"""The command that trains one of the demo's students: the one a user would type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cache import POOLING, TEMPLATES

FRAMES = 2


def training_command(base: str, kind: str, tower: Path, data: str, out: str, flags: dict[str, Any]) -> list[str]:
    """LLaVA's training command for one student; paths are relative to the run's folder.

    A run without --ego2exo is LLaVA's own, which takes none of these settings from the base checkpoint: they are given.

    Args:
        base: the checkpoint to start from.
        kind: key of `TEMPLATES`.
        tower: folder of the vision tower.
        data: training JSON.
        out: where the student goes.
        flags: what differs between runs.
    """
    import torch

    from ..host.hooks.flavour import NEXT, detect

    values = {
        "model_name_or_path": base, "version": TEMPLATES[kind], "data_path": data, "video_folder": "pairs",
        "output_dir": out, "vision_tower": tower, "vision_tower_dtype": "float32", "mm_vision_select_layer": -2,
        "mm_projector_type": "mlp2x_gelu", "mm_patch_merge_type": "flat", "image_aspect_ratio": "square",
        "mm_use_im_patch_token": False,
        **(POOLING if detect() == NEXT else {}),
        "frames_upbound": FRAMES, "model_max_length": 1024, "lora_enable": True, "lora_r": 16, "lora_alpha": 32,
        "lr_scheduler_type": "cosine", "warmup_ratio": 0.05, "weight_decay": 0.0, "logging_steps": 10,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "gradient_checkpointing": False,
        "dataloader_num_workers": 1,
        **flags, **({} if torch.cuda.is_available() else {"use_cpu": True}),
    }  # fmt: skip
    parts = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    return ["python", "-m", "llava_ego2exo.train", *parts]
