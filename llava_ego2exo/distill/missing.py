"""A list of videos that are missing from an Ego-Exo4D download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..common.files import write_whole
from ..errors import Ego2ExoError


def write_missing(folder: str | Path, missing: Mapping[str, str]) -> Path:
    """Write `<folder>/missing.txt`, or remove an old one where nothing is missing.

    Args:
        folder: made where it is not there.
        missing: path -> uid of its take.

    Raises:
        Ego2ExoError: the folder or file cannot be written.
    """
    path = Path(folder, "missing.txt")
    uids = " ".join(dict.fromkeys(missing.values()))
    head = [
        f"# {len(missing)} missing video(s). The data set's own downloader gets their takes with:",
        f"# egoexo -o ROOT --parts downscaled_takes/448 --uids {uids}",
    ]
    if missing:
        return write_whole(path, "\n".join([*head, *missing, ""]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Ego2ExoError(f"{path} cannot be written: {error.strerror}", "a folder of yours", "mend --out") from error
    return path
