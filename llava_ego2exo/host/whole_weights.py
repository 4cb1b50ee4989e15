"""Whether the safetensors files of a folder are whole: their own library says of a cut file neither name nor length."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import Ego2ExoError

# What safetensors itself allows for the list of tensors that a file begins with.
_MAX_HEADER = 100_000_000


def require_whole_weights(folder: str | Path | None) -> None:
    """Compare each `.safetensors` file of a folder with the length that its header says; reads headers alone.

    Args:
        folder: of a checkpoint; a hub name or None is not looked at.

    Raises:
        Ego2ExoError: a file is cut off or no safetensors file.
    """
    if folder is None or not Path(folder).is_dir():
        return
    for file in sorted(Path(folder).glob("*.safetensors")):
        reason = _fault(file)
        if reason:
            raise Ego2ExoError(
                f"{file} {reason}",
                "a whole safetensors file",
                "it was cut off, perhaps while it was copied, or is another file: get or make it anew",
            )


def _fault(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            return f"is no whole safetensors file: {size} bytes"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            wanted = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "has no header that can be read"
    return f"has {size} of {wanted} bytes" if size != wanted else ""
