"""What video files contain, by decoding all their frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..common.files import file_hash
from ..common.processes import map_threads
from ..errors import Ego2ExoError
from .frames import VideoFrames, require_av
from .limits import VideoLimits
from .worker import WorkerPool, heartbeat, short_reason


@dataclass(frozen=True)
class Probe:
    """What a file contains, or why it cannot be read.

    Args:
        error: empty if every frame decodes.
        duration_s: from the first frame to the end of the last, in seconds.
        rate: frames per second, from the frames' own times.
        frames: number of frames that decode.
        declared: number of frames in the header; 0 if it does not say.
        width: pixels.
        height: pixels.
        sha256: of the file's bytes.
    """

    error: str = ""
    duration_s: float = 0.0
    rate: float = 0.0
    frames: int = 0
    declared: int = 0
    width: int = 0
    height: int = 0
    sha256: str = ""


def probe_files(
    paths: Sequence[str], workers: int = 0, limits: VideoLimits | None = None, progress: bool = True
) -> dict[str, Probe]:
    """Path -> probe, each in a process that may hang or crash without harm; 0 workers: one per CPU, at most 8.

    Raises:
        Ego2ExoError: PyAV is missing, or `workers` is negative.
    """
    require_av()
    if workers < 0:
        raise Ego2ExoError(f"--workers {workers}", "0 or more")
    limits, paths = limits or VideoLimits(), list(dict.fromkeys(paths))
    workers = min(workers or min(os.cpu_count() or 1, 8), max(len(paths), 1))

    def run(path: str) -> Probe:
        try:
            arguments = {"path": os.path.abspath(path), "limits": limits.to_dict()}
            return Probe(**pool.call(_probe, arguments, limits)[0])
        except Ego2ExoError as error:
            return Probe(error=error.given)

    with WorkerPool("av") as pool:
        return dict(zip(paths, map_threads(run, paths, workers, "probing", "file", progress), strict=True))


def probe(path: str, limits: VideoLimits | None = None) -> Probe:
    """Decode a whole file."""
    if not os.path.isfile(path):
        return Probe(error="is not there" if not os.path.isdir(path) else "is a folder")
    try:
        video = VideoFrames(path, limits or VideoLimits(), True, heartbeat)
        timeline, declared, (width, height) = video.timeline, video.declared, video.size
        found = (timeline.duration, timeline.rate, len(timeline.times), declared, width, height)
        return Probe("", *found, sha256=file_hash(path))
    except Ego2ExoError as error:
        return Probe(error=error.given)
    except Exception as error:  # decoders raise anything at a broken file
        return Probe(error=f"does not decode: {short_reason(error)}")


def _probe(path: str, limits: dict[str, float]) -> dict[str, Any]:
    """In a worker: :func:`probe` with JSON values."""
    return asdict(probe(path, VideoLimits(**limits)))
