"""What differs between the settings that a folder was made with and those of this run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each value that is not the same, as ``settings.dtype: "float32", now "bfloat16"``.

    Mappings inside are compared key by key; everything else, lists included, as a whole.

    Args:
        old: as stored. A key that only one side has counts as null on the other.
        new: of this run.
        prefix: put in front of every name.
    """
    lines = []
    for name in dict.fromkeys([*old, *new]):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differences(before, now, f"{prefix}{name}.")
        elif before != now:
            lines.append(f"{prefix}{name}: {_short(before)}, now {_short(now)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
