"""A video file's header, checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError
from .limits import VideoLimits, raising

# Formats without pictures of their own: they name other files or addresses.
_PLAYLISTS = set("hls dash webm_dash_manifest concat imf sdp rtsp image2 image2pipe tedcaptions".split())


@dataclass(frozen=True)
class Header:
    """Header of a video stream.

    Args:
        width: pixels.
        height: pixels.
        duration_s: seconds; 0 if the file does not say.
    """

    width: int
    height: int
    duration_s: float


def read_header(path: str, limits: VideoLimits) -> Header:
    """Read and check the header of a file.

    Args:
        path: of the file.
        limits: maximum size and duration.

    Raises:
        Ego2ExoError: the file holds no video, or exceeds `limits`; the message lacks the file's name.
        av.error.FFmpegError: the file is not a media file.
    """
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
    _check_header(header, limits)
    return header


def _check_header(header: Header, limits: VideoLimits) -> None:
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


def check_memory(frames: int, header: Header, limits: VideoLimits) -> None:
    """Check the memory that sampled frames need.

    Args:
        frames: number of frames.
        header: of their file.
        limits: maximum memory.

    Raises:
        Ego2ExoError: they need more; the message lacks the file's name.
    """
    needed = frames * header.width * header.height * 3
    if needed > limits.max_bytes:
        raise Ego2ExoError(
            f"would need {needed / 2**30:.1f} GiB for {frames} frames of {header.width} x {header.height} pixels",
            f"up to {limits.video_max_gib:g} GiB",
            f"limit the frames (--frames-upbound, in training --frames_upbound); or {raising('video_max_gib')}",
        )


def require_av() -> Any:
    """The module `av`.

    Raises:
        Ego2ExoError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise Ego2ExoError("PyAV is not installed", "", "pip install 'llava-ego2exo[pairs]'") from error
    return av
