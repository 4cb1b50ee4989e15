"""What one video file really holds: every frame is decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...common.files import file_hash
from ...common.processes import run_all
from ...errors import Ego2ExoError
from ...video.limits import VideoLimits
from ...video.probe import read_header, require_av
from ...video.worker import WorkerPool, short_reason


@dataclass(frozen=True)
class Probe:
    """What a file holds, or why it cannot be read.

    Args:
        error: empty where every frame decodes.
        duration_s: from the first frame to the end of the last, in seconds.
        rate: frames a second, from the frames' own times.
        frames: number of frames that decode.
        declared: number of frames that the file says it has; 0 where it says nothing.
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


def probe(path: str, limits: VideoLimits | None = None) -> Probe:
    """Decode a whole file with PyAV, and its first and last frame with decord, which training reads with.

    Args:
        path: of the file.
        limits: what a video may be; None: the defaults.
    """
    if not os.path.isfile(path):
        return Probe(error="is not there" if not os.path.isdir(path) else "is a folder")
    try:
        digest = file_hash(path)
        read_header(path, limits or VideoLimits())
        values = _decode(path)
    except Ego2ExoError as error:
        return Probe(error=error.given)
    except Exception as error:
        # Whatever a decoder throws at a strange file is the answer here; it must not end the check.
        return Probe(error=f"does not decode: {short_reason(error)}")
    error = values.pop("error") or _decord_error(path)
    return Probe(error=error, sha256=digest, **values)


def _decode(path: str) -> dict[str, Any]:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        times, width, height = [], stream.width, stream.height
        for frame in container.decode(stream):
            times.append(frame.time)
        declared, average = stream.frames, float(stream.average_rate or 0)
    count = len(times)
    if not count:
        return {"error": "holds no frame"}
    known = [time for time in times if time is not None]
    span = max(known) - min(known) if known else 0.0
    rate = (len(known) - 1) / span if span > 0 else average
    duration = span + 1 / rate if known and rate else (count / rate if rate else 0.0)
    # A file that was cut off while being copied may still decode up to there.
    lost = declared - count if declared - count > max(2, declared // 50) else 0
    error = f"decodes {count} frames of the {declared} that it says it has" if lost else ""
    return {
        "error": error, "duration_s": duration, "rate": rate, "frames": count, "declared": declared, "width": width,
        "height": height,
    }  # fmt: skip


def _decord_error(path: str) -> str:
    try:
        import decord
    except ImportError:
        return ""
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        reader.get_batch([0, len(reader) - 1])
    except Exception as error:
        return f"does not decode with decord: {short_reason(error)}"
    return ""


def probe_in_worker(path: str, limits: dict[str, float]) -> dict[str, Any]:
    """:func:`probe` with JSON values."""
    return asdict(probe(path, VideoLimits(**limits)))


# Probe many files, each in a process that may hang or crash without harm.


def probe_files(
    paths: Sequence[str], workers: int = 0, limits: VideoLimits | None = None, progress: bool = True
) -> dict[str, Probe]:
    """path -> what it holds, for each different path.

    Args:
        paths: video files.
        workers: processes at a time; 0: one per CPU, at most 8.
        limits: of a video; after `video_limit_s` its process is killed and the file counts as faulty. None: the
            defaults.
        progress: show a progress bar.

    Raises:
        Ego2ExoError: PyAV is missing, or a number is negative.
    """
    require_av()
    if workers < 0:
        raise Ego2ExoError(f"--workers {workers}", "0 or more")
    limits, paths = limits or VideoLimits(), list(dict.fromkeys(paths))
    workers = min(workers or min(os.cpu_count() or 1, 8), max(len(paths), 1))

    def probe(path: str) -> Probe:
        try:
            arguments = {"path": os.path.abspath(path), "limits": limits.to_dict()}
            return Probe(**pool.call(probe_in_worker, arguments, limits)[0])
        except Ego2ExoError as error:
            return Probe(error=error.given)

    with WorkerPool("av") as pool:
        results = run_all(probe, paths, workers, "probing", "file", progress)
    return dict(zip(paths, results, strict=True))
