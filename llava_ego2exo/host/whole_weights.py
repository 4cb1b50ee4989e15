"""Whether the safetensors files of a folder are whole."""

from __future__ import annotations

from pathlib import Path

from ..errors import Ego2ExoError


def require_whole_weights(folder: str | Path | None) -> None:
    """Check the header and length of each `.safetensors` file in a folder; reads headers alone.

    Args:
        folder: of a checkpoint; a hub name or None is not checked.

    Raises:
        Ego2ExoError: a file is cut off or not a safetensors file; safetensors' own error does not name it.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")) if folder is not None else ():
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise Ego2ExoError(
                f"{file} is damaged: {error}", "a whole safetensors file", "copy or download it again"
            ) from error
