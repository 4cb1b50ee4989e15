"""A checkpoint's config.json, local or on the hub, or the reason why there is none."""

from __future__ import annotations

import os
from typing import Any

from ...common.json_io import read_json
from ...errors import Ego2ExoError


def read_config(path: str | None) -> dict[str, Any]:
    """A checkpoint's config.json, local or on the hub.

    Raises:
        Ego2ExoError: there is none.
    """
    from transformers import PretrainedConfig

    try:
        _require_bounded(path)
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        reason, remedy = _why_no_config(str(path), error)
        raise Ego2ExoError(
            f"no readable config.json at {path!r} ({reason})", "a LLaVA checkpoint's folder or hub name", remedy
        ) from error


def _require_bounded(path: str | None) -> None:
    """transformers copies and prints a config level by level, and expects an object."""
    file = os.path.join(str(path), "config.json")
    if os.path.isfile(file) and not isinstance(read_json(file, "a config"), dict):
        raise ValueError("it holds no object")


def _why_no_config(path: str, error: Exception) -> tuple[str, str]:
    """Why, and what to do: transformers speaks of the hub where a folder was meant."""
    if os.path.isdir(path):
        holds = os.path.isfile(os.path.join(path, "config.json"))
        reason = str(error).splitlines()[0] if holds else "the folder holds none"
        return reason, "check the path, or take the folder that holds the checkpoint"
    if os.path.isfile(path):
        return "it is a file", "pass its folder"
    parts = [part for part in path.split("/") if part]
    named = len(parts) <= 2 and not path.startswith((".", "~", "/")) and not path.endswith("/")
    if not named or (len(parts) == 2 and os.path.isdir(parts[0])):
        return "no such folder", "check the path"
    offline = "no such folder here, and the hub was not reached or has no such model"
    return offline, "check the path, or, if it is a hub name, that the hub can be reached"
