"""LLaVA resumes by itself from the highest checkpoint in the output folder; it must be a whole one of this run."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..config import PREFIX, DistillConfig, Ego2ExoConfig
from ..errors import Ego2ExoError
from .command_line import Settings
from .config_file import read_config
from .identity import differences
from .repairs import adapter_only
from .resuming import require_resumable
from .whole_checkpoints import Found, look, read_manifest, required_files


def check_resume(
    settings: Settings, flags: Ego2ExoConfig, distilling: DistillConfig, identity: dict[str, Any]
) -> tuple[Found, list[str]]:
    """Look for the checkpoint that the run will go on from.

    Args:
        settings: the run's.
        flags: the plugin's.
        distilling: how it distils.
        identity: of the run.

    Returns:
        What lies in the output folder; flags that change the run from here on, in words.

    Raises:
        Ego2ExoError: no checkpoint is whole, or the last whole one is of another run; says what differs.
    """
    alone = adapter_only(SimpleNamespace(**settings.values))
    found = look(settings["output_dir"], required_files(bool(settings["lora_enable"]), alone))
    if found.last is None:
        if found.damaged:
            path, reason = found.damaged[-1]
            raise Ego2ExoError(
                f"{path} cannot be resumed: {reason}; no other checkpoint in {path.parent} is whole",
                "a whole checkpoint-N, or none",
                "put the file back, or remove the checkpoint to start anew",
            )
        return found, []
    manifest = read_manifest(found.last)
    run = {} if manifest is None else manifest["run"]
    if run:
        require_resumable(run, str(found.last))
        lines, changed = differences(run, identity)
    else:
        lines, changed = _by_config(found.last, flags, distilling), []
    if lines:
        raise Ego2ExoError(
            f"{found.last} would be resumed, but was made with other flags or files (checkpoint / now): "
            + "; ".join(lines),
            "the flags and files it was made with",
            "use them, or another --output_dir",
        )
    return found, changed


def _by_config(checkpoint: Path, flags: Ego2ExoConfig, distilling: DistillConfig) -> list[str]:
    """What differs, of a checkpoint that says nothing of its run but in its config."""
    if not os.path.isfile(checkpoint / "config.json"):
        return []
    config = read_config(str(checkpoint))
    source = SimpleNamespace(**config)
    stored = Ego2ExoConfig.from_object(source)
    lines = stored.differences(flags) if config.get("ego2exo") else [f"{PREFIX.rstrip('_')}: False / True"]
    return lines + DistillConfig.from_object(source).differences(distilling)
