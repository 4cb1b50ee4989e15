"""What a file says of itself, looked at before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import Ego2ExoError
from .limits import VideoLimits, raising

# Formats that hold no pictures but name other files, or addresses, to take them from.
_PLAYLISTS = {
    "hls",
    "dash",
    "webm_dash_manifest",
    "concat",
    "imf",
    "sdp",
    "rtsp",
    "image2",
    "image2pipe",
    "tedcaptions",
}


@dataclass(frozen=True)
class Header:
    """Of a file's video stream.

    Args:
        width: pixels.
        height: pixels.
        duration_s: of the file in seconds; 0 where it does not say, as in files that decord refuses.
    """

    width: int
    height: int
    duration_s: float

    @property
    def frame_bytes(self) -> int:
        """What one decoded frame takes."""
        return self.width * self.height * 3


def read_header(path: str, limits: VideoLimits) -> Header:
    """What a file says of itself.

    Args:
        path: of the file.
        limits: bounds.

    Raises:
        Ego2ExoError: it holds no video, or more than the bounds allow; the message is to be read after its name.
        av.error.FFmpegError: it is no such file.
    """
    import av

    with av.open(path) as container:
        names = set(container.format.name.split(","))
        if names & _PLAYLISTS:
            raise Ego2ExoError("is a list of other files", "a file that holds its pictures itself", "name the video")
        if not container.streams.video:
            raise Ego2ExoError("holds no video stream", "a file with pictures", "mend the file or take it out")
        header = _header(container, container.streams.video[0], av.time_base)
    check_header(header, limits)
    return header


def check_header(header: Header, limits: VideoLimits) -> None:
    """Refuse what is larger or longer than the bounds.

    Args:
        header: of the file.
        limits: bounds.

    Raises:
        Ego2ExoError: as :func:`read_header`.
    """
    megapixels = header.width * header.height / 1e6
    if not megapixels:
        raise Ego2ExoError("tells no possible size of its frames", "a complete file", "encode the video again")
    if megapixels > limits.video_max_megapixels:
        raise Ego2ExoError(
            f"has frames of {header.width} x {header.height} pixels ({megapixels:.1f} megapixels)",
            f"up to {limits.video_max_megapixels:g} megapixels",
            raising("video_max_megapixels"),
        )
    hours = header.duration_s / 3600
    if hours > limits.video_max_hours:
        raise Ego2ExoError(f"lasts {hours:.3g} h", f"up to {limits.video_max_hours:g} h", raising("video_max_hours"))


def check_memory(frames: int, header: Header, limits: VideoLimits) -> None:
    """Refuse to take more frames than the bounds allow.

    Args:
        frames: how many are wanted.
        header: of the file.
        limits: bounds.

    Raises:
        Ego2ExoError: as :func:`read_header`.
    """
    gib = frames * header.frame_bytes / 2**30
    if gib > limits.video_max_gib:
        raise Ego2ExoError(
            f"would need {gib:.1f} GiB for {frames} frames of {header.width} x {header.height} pixels",
            f"up to {limits.video_max_gib:g} GiB",
            f"bound the frames (--frames-upbound, in training --frames_upbound); or {raising('video_max_gib')}",
        )


def _header(container: Any, stream: Any, base: int) -> Header:
    whole = (container.duration or 0) / base
    own = float((stream.duration or 0) * (stream.time_base or 0))
    return Header(stream.width or 0, stream.height or 0, max(whole, own, 0.0))


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
