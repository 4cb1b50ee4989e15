"""Which frames of a video a player shows, when, and their pictures: for reader, probe and cuts alike.

Times come from the packets of the file, which are read without decoding. They are compared with the times of every
frame that is decoded; where the two differ, all frames are decoded once for their times. So a seek, an index or a
header is never trusted.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from math import inf, isfinite
from typing import Any, NamedTuple, TypeVar

from ..errors import Ego2ExoError, require_package
from .limits import VideoLimits, raising
from .timeline import in_order, timeline_of

# Formats without pictures of their own: they name other files or addresses.
_PLAYLISTS = set("hls dash webm_dash_manifest concat imf sdp rtsp image2 image2pipe tedcaptions".split())
# Seeking and filling the decoder again takes about as long as decoding so many frames.
_WORTH_SEEKING = 8

T = TypeVar("T")


class WrongTimes(Exception):
    """Frames decode with other times than the packets have."""


def use_video(
    path: str, limits: VideoLimits, use: Callable[[VideoFrames], T], on_frame: Callable[[], None] | None = None
) -> T:
    """`use(video)`; called again with the times of all decoded frames if packets have others.

    `on_frame` is called at each decoded frame.

    Raises:
        Ego2ExoError: the file holds no video, exceeds the limits, or is truncated; it lacks the file's name.
    """
    try:
        return use(VideoFrames(path, limits, False, on_frame))
    except WrongTimes:
        return use(VideoFrames(path, limits, True, on_frame))


class VideoFrames:
    """The frames of a file that a player shows; with `decode` their times are those of the decoded frames.

    Attributes:
        timeline: when the frames are shown.
        size: width and height in pixels, before they are turned upright.
        declared: number of frames in the header, without hidden ones; 0 if it does not say.
    """

    def __init__(
        self, path: str, limits: VideoLimits, decode: bool = False, on_frame: Callable[[], None] | None = None
    ) -> None:
        self._path, self._limits, self._on_frame = path, limits, on_frame
        with closing(_open(path, limits)) as container:
            stream = _video_stream(container)
            self.size, self._base = (stream.width, stream.height), stream.time_base
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self._header_rate = rate if isfinite(rate) and rate > 0 else 25.0
            packets, hidden = _packets(container, stream)
            self.declared = max(stream.frames - hidden, 0)
        self._decoding_times = {packet.pts: packet.dts for packet in packets if packet.key and packet.pts is not None}
        self._keys = sorted(self._decoding_times)
        # Frames before the first key frame do not decode.
        start = self._keys[0] if self._keys else inf
        shown = [packet for packet in packets if packet.shown and (packet.pts is None or packet.pts >= start)]
        self._ticks = None if decode else in_order([packet.pts for packet in shown])
        if self._ticks:
            ticks, last = self._ticks, max(shown).duration
        else:
            decoded = [(frame.pts, frame.duration) for frame in self._all()]
            ticks, last = [pts for pts, _ in decoded], decoded[-1][1] if decoded else 0
        if not ticks:
            raise Ego2ExoError("holds no frame that decodes", "a complete file", "repair the file or remove it")
        self.timeline = timeline_of(ticks, self._base, self._header_rate, last or 0)
        self._check_length()

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Each index, increasing, with its decoded `av.VideoFrame`.

        Raises:
            WrongTimes: a frame has another time than the packets.
        """
        if not self._ticks:
            wanted = set(indices)
            found = (pair for pair in enumerate(self._all()) if pair[0] in wanted)
            yield from (next(found) for _ in indices)
            return
        with closing(_open(self._path, self._limits)) as container:
            stream = _video_stream(container)
            decoded, position = self._decode(container, stream), 0
            for index in indices:
                if self._key_before(index)[1] - position > _WORTH_SEEKING:
                    decoded, position = self._seek(container, stream, index)
                while position <= index:
                    frame = next(decoded, None)
                    if frame is None or frame.pts != self._ticks[position]:
                        raise WrongTimes
                    position += 1
                yield index, frame

    def _key_before(self, index: int, skipped: int = 0) -> tuple[int, int]:
        """Time of the last key frame that is not after a frame, and the first frame shown from then on."""
        place = bisect_right(self._keys, self._ticks[index]) - 1 - skipped
        key = self._keys[max(place, 0)]
        return key, bisect_left(self._ticks, key)

    def _seek(self, container: Any, stream: Any, index: int) -> tuple[Iterator[Any], int]:
        """The decoded frames from a key frame before a frame on, and the index of the first."""
        for skipped in range(3):  # without an index in the file a seek may end after the key frame
            key, position = self._key_before(index, skipped)
            # Without an index packets are found by when they are decoded, which is earlier.
            by_decoding = container.format.name in ("mpegts", "mpeg")
            container.seek((by_decoding and self._decoding_times[key]) or key, stream=stream, backward=True)
            decoded = self._decode(container, stream)
            first = next((frame for frame in decoded if frame.pts is None or frame.pts >= key), None)
            # If a seek changes the times, another frame than the key frame has its time. One that is hidden has none.
            if first and first.pts == self._ticks[position] and (first.key_frame or first.pts > key):
                return chain([first], decoded), position
        raise WrongTimes

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        try:
            yield from self._shown(container, stream)
        except require_av().error.FFmpegError as error:
            raise WrongTimes from error

    def _all(self) -> Iterator[Any]:
        with closing(_open(self._path, self._limits)) as container:
            yield from self._shown(container, _video_stream(container))

    def _shown(self, container: Any, stream: Any) -> Iterator[Any]:
        """Decoded frames that are not before second 0 and have a size within the limits."""
        for frame in container.decode(stream):
            if self._on_frame:
                self._on_frame()
            _check_size(frame.width, frame.height, self._limits)
            if (frame.pts or 0) >= 0:
                yield frame

    def _check_length(self) -> None:
        hours, limit = self.timeline.duration / 3600, self._limits.video_max_hours
        if hours > limit:
            raise Ego2ExoError(f"lasts {hours:.3g} h", f"up to {limit:g} h", raising("video_max_hours"))
        # A file truncated while it was copied may still decode up to there. Dropped frames of an .avi take time.
        shown, spare = len(self.timeline.times), max(2, self.declared // 50)
        if self.declared - max(shown, self.timeline.duration * self._header_rate) > spare:
            raise Ego2ExoError(
                f"holds {shown} frames of the {self.declared} in its header", "a complete file", "copy it again"
            )


def require_av() -> Any:
    """The module `av` (PyAV)."""
    return require_package("av", "pairs")


def check_memory(frames: int, width: int, height: int, limits: VideoLimits) -> None:
    """Check the memory that sampled frames need; the error lacks the file's name."""
    needed = frames * width * height * 3
    if needed > limits.max_bytes:
        raise Ego2ExoError(
            f"would need {needed / 2**30:.1f} GiB for {frames} frames of {width} x {height} pixels",
            f"up to {limits.video_max_gib:g} GiB",
            f"limit the frames (--frames-upbound, in training --frames_upbound); or {raising('video_max_gib')}",
        )


def upright(frame: Any, width: int | None = None, height: int | None = None) -> Any:
    """(H, W, 3) uint8 of a decoded frame, scaled to a size and then turned and mirrored as players show it."""
    import numpy as np

    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), from an origin that keeps it in the picture.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    shown: bool


def _open(path: str, limits: VideoLimits) -> Any:
    """The opened file, whose header is within the limits."""
    av = require_av()
    try:
        container = av.open(path, metadata_errors="ignore")
    except av.error.InvalidDataError as error:
        fault = "is no video file that ffmpeg knows, or is cut off" if os.path.getsize(path) else "is empty"
        raise Ego2ExoError(fault, "a complete file that ffmpeg plays", "copy it again, or encode it again") from error
    try:
        if _PLAYLISTS & set(container.format.name.split(",")):
            raise Ego2ExoError("is a list of other files", "a file with pictures of its own", "name the video itself")
        stream = _video_stream(container)
        if stream is None:
            raise Ego2ExoError("holds no video stream", "a file with pictures", "repair the file or remove it")
        if stream.codec_context is None:
            raise Ego2ExoError("has a codec that PyAV cannot decode", "a file that ffmpeg plays", "encode it again")
        _check_size(stream.width or 0, stream.height or 0, limits)
        stream.codec_context.thread_count = 1  # files are read side by side
    except BaseException:
        container.close()
        raise
    return container


def _video_stream(container: Any) -> Any:
    """The stream that players choose; None: there is none, or only the picture of a sound file."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    return None if stream is None or stream.disposition & Disposition.attached_pic else stream


def _check_size(width: int, height: int, limits: VideoLimits) -> None:
    megapixels = width * height / 1e6
    if not megapixels:
        raise Ego2ExoError("has no valid frame size in its header", "a complete file", "encode the video again")
    if megapixels > limits.video_max_megapixels:
        raise Ego2ExoError(
            f"has frames of {width} x {height} pixels ({megapixels:.1f} megapixels)",
            f"up to {limits.video_max_megapixels:g} megapixels",
            raising("video_max_megapixels"),
        )


def _packets(container: Any, stream: Any) -> tuple[list[_Packet], int]:
    """All packets, and how many are never shown."""
    codec, packets = stream.codec_context.name, []
    for packet in container.demux(stream):
        if packet.size:
            hidden = packet.is_discard or (packet.pts or 0) < 0 or _is_reference(packet, codec)
            packets.append(_Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, not hidden))
    return packets, sum(not packet.shown for packet in packets)


def _is_reference(packet: Any, codec: str) -> bool:
    """Whether a packet holds nothing but a frame for others to refer to, by the first byte of a VP8 or VP9 frame."""
    if codec not in ("vp8", "vp9"):
        return False
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 0x10
    # The last byte marks several frames in one packet, one of which is shown.
    return data[0] >> 6 == 2 and not data[0] & 0x0A and data[-1] >> 5 != 6
