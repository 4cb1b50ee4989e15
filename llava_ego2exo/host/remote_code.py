"""Python code that a checkpoint brings: LLaVA lets transformers run it for `hf:` towers, and for paths with `mpt`."""

from __future__ import annotations

import os
from typing import Any

from ..errors import Ego2ExoError
from .config_file import read_config
from .flavour import PYPI, detect

ALLOWED = "LLAVA_EGO2EXO_REMOTE_CODE"


def check_tower_code(tower: Any) -> None:
    """Refuse a `hf:` tower (`--vision_tower`, or `mm_vision_tower` of a config) that brings code.

    Raises:
        Ego2ExoError: it does, and the environment does not allow it.
    """
    if isinstance(tower, str) and tower.startswith("hf:"):
        _refuse(tower.removeprefix("hf:"), f"the vision tower {tower}")


def check_base_code(path: Any) -> None:
    """Refuse a base that brings code where llava-torch would run it: by the letters `mpt` anywhere in its path.

    Raises:
        Ego2ExoError: it does, and the environment does not allow it.
    """
    if "mpt" in str(path) and detect() == PYPI:
        _refuse(str(path), f"--model_name_or_path {path}")


def _refuse(path: str, given: str) -> None:
    try:
        config = read_config(path)
    except Ego2ExoError:
        return  # whoever reads the missing config reports it
    if config.get("auto_map") and os.environ.get(ALLOWED) != "1":
        raise Ego2ExoError(
            f"{given} brings Python code of its own (auto_map in its config.json)",
            "models whose classes transformers and llava know",
            f"read that code first, and set {ALLOWED}=1 if you trust it",
        )
