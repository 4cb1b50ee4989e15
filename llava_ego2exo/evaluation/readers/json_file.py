"""A benchmark's JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.json_io import read_json
from ...errors import Ego2ExoError


def load_json(path: Path) -> Any:
    """What a file holds.

    Raises:
        Ego2ExoError: it is no file, or as `read_json`.
    """
    if not path.is_file():
        raise Ego2ExoError(f"--data {path} is no file", "a benchmark's JSON file, or its folder", "check the path")
    return read_json(path, "a benchmark's JSON file")
