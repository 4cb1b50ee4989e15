"""Header of a video file, checked before it is decoded; and its real content, by decoding all frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..common.files import file_hash
from ..common.processes import map_threads
from ..errors import Ego2ExoError, require_package
from .limits import VideoLimits, raising
from .worker import WorkerPool, short_reason

# Formats without pictures of their own: they name other files or addresses.
_PLAYLISTS = set("hls dash webm_dash_manifest concat imf sdp rtsp image2 image2pipe tedcaptions".split())


class Header(NamedTuple):
    """Size in pixels and duration in seconds of a video stream; 0 if the file does not say."""

    width: int
    height: int
    duration_s: float


def read_header(path: str, limits: VideoLimits) -> Header:
    """Read and check the header of a file; errors lack the file's name."""
    import av

    with av.open(path) as container:
        if _PLAYLISTS & set(container.format.name.split(",")):
            raise Ego2ExoError("is a list of other files", "a file with pictures of its own", "name the video itself")
        if not container.streams.video:
            raise Ego2ExoError("holds no video stream", "a file with pictures", "repair the file or remove it")
        stream = container.streams.video[0]
        duration_s = max(
            (container.duration or 0) / av.time_base, float((stream.duration or 0) * (stream.time_base or 0)), 0.0
        )
        header = Header(stream.width or 0, stream.height or 0, duration_s)
    megapixels, hours = header.width * header.height / 1e6, header.duration_s / 3600
    if not megapixels:
        raise Ego2ExoError("has no valid frame size in its header", "a complete file", "encode the video again")
    if megapixels > limits.video_max_megapixels:
        raise Ego2ExoError(
            f"has frames of {header.width} x {header.height} pixels ({megapixels:.1f} megapixels)",
            f"up to {limits.video_max_megapixels:g} megapixels",
            raising("video_max_megapixels"),
        )
    if hours > limits.video_max_hours:
        raise Ego2ExoError(f"lasts {hours:.3g} h", f"up to {limits.video_max_hours:g} h", raising("video_max_hours"))
    return header


def check_memory(frames: int, header: Header, limits: VideoLimits) -> None:
    """Check the memory that sampled frames need; the error lacks the file's name."""
    needed = frames * header.width * header.height * 3
    if needed > limits.max_bytes:
        raise Ego2ExoError(
            f"would need {needed / 2**30:.1f} GiB for {frames} frames of {header.width} x {header.height} pixels",
            f"up to {limits.video_max_gib:g} GiB",
            f"limit the frames (--frames-upbound, in training --frames_upbound); or {raising('video_max_gib')}",
        )


def require_av() -> Any:
    """The module `av` (PyAV)."""
    return require_package("av", "pairs")


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
    """Decode a whole file with PyAV, and its first and last frame with decord, which training reads with."""
    if not os.path.isfile(path):
        return Probe(error="is not there" if not os.path.isdir(path) else "is a folder")
    try:
        digest = file_hash(path)
        read_header(path, limits or VideoLimits())
        values = _decode(path)
    except Ego2ExoError as error:
        return Probe(error=error.given)
    except Exception as error:  # decoders raise anything at a broken file
        return Probe(error=f"does not decode: {short_reason(error)}")
    error = values.pop("error") or _decord_error(path)
    return Probe(error=error, sha256=digest, **values)


def _probe(path: str, limits: dict[str, float]) -> dict[str, Any]:
    """In a worker: :func:`probe` with JSON values."""
    return asdict(probe(path, VideoLimits(**limits)))


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
    # A file truncated while it was copied may still decode up to there.
    lost = declared - count > max(2, declared // 50)
    error = f"decodes {count} frames of the {declared} in its header" if lost else ""
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
