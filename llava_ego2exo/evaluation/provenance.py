"""What a number depends on: versions, commits, data, models and how they were asked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..common.git import commit_of

_PACKAGES = ("llava-ego2exo", "torch", "transformers", "peft", "bitsandbytes", "decord", "snowballstemmer")


def software() -> dict[str, Any]:
    """Versions of packages, the llava in use, commits of checkouts, and the device."""
    import platform

    import torch

    from ..host.flavour import detect, package_folder

    versions: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "llava": {"flavour": detect(), "commit": commit_of(package_folder())},
        "commit": commit_of(Path(__file__).parents[1]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def named(models: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A manifest's models by name."""
    return {model["name"]: model for model in models}
