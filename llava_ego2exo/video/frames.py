"""Which frames of a video a player shows, when, and their pictures: for reader, probe and cuts alike.

Times come from the packets of the file, which are read without decoding. They are compared with the times of every
frame that is decoded; where the two differ, all frames are decoded once for their times. So a seek, an index or a
header is never trusted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from math import inf, isfinite
from typing import Any, NamedTuple, TypeVar

from ..errors import Ego2ExoError, require_package
from .limits import VideoLimits, raising
from .worker import heartbeat

# Formats without pictures of their own: they name other files or addresses.
_PLAYLISTS = set("hls dash webm_dash_manifest concat imf sdp rtsp image2 image2pipe tedcaptions".split())
# How far decoders reorder frames; times that differ more from their order are no presentation times.
_REORDERED = 16
# Seeking and filling the decoder again takes about as long as decoding so many frames.
_WORTH_SEEKING = 8
# Times in files are rounded to their time base, which may be a millisecond.
ROUNDING_S = 0.0005
# How much shorter than its segment a video may be: the last frame's duration is a guess.
MISSING_S = 0.5

T = TypeVar("T")


class WrongTimes(Exception):
    """Frames decode with other times than the packets have."""


class Timeline(NamedTuple):
    """When the frames are shown.

    Args:
        times: (frames,) seconds after the first shown frame, increasing.
        duration: seconds from the first frame to the end of the last.
        rate: frames per second; their average where it changes.
        constant: whether frame i is shown at i / rate.
    """

    times: Any
    duration: float
    rate: float
    constant: bool

    def part(self, start_s: float | None, end_s: float | None, missing_s: float = MISSING_S) -> tuple[int, int]:
        """First frame of a segment, and the first one after it; the error lacks the file's name."""
        import numpy as np

        start, end = start_s or 0.0, inf if end_s is None else end_s
        first, last = (int(np.searchsorted(self.times, second - ROUNDING_S)) for second in (start, end))
        if first >= last or (end_s is not None and end_s > self.duration + missing_s):
            until = "its end" if end_s is None else f"{end_s:g} s"
            raise Ego2ExoError(
                f"lasts {self.duration:.2f} s, but the segment is {start:g} s to {until}",
                "a segment inside the video",
                "correct start_s and end_s of the pair",
            )
        return first, last


def use_video(path: str, limits: VideoLimits, use: Callable[[VideoFrames], T]) -> T:
    """`use(video)`; called again with the times of all decoded frames if packets have others.

    Raises:
        Ego2ExoError: the file holds no video, exceeds the limits, or is truncated; it lacks the file's name.
    """
    try:
        return use(VideoFrames(path, limits))
    except WrongTimes:
        return use(VideoFrames(path, limits, decode=True))


class VideoFrames:
    """The frames of a file that a player shows; with `decode` their times are those of the decoded frames.

    Attributes:
        timeline: when the frames are shown.
        size: width and height in pixels, before they are turned upright.
        declared: number of frames in the header, without hidden ones; 0 if it does not say.
    """

    def __init__(self, path: str, limits: VideoLimits, decode: bool = False) -> None:
        self._path, self._limits = path, limits
        with closing(_open(path, limits)) as container:
            stream = _video_stream(container)
            self.size, self._base = (stream.width, stream.height), stream.time_base
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            self._header_rate = rate if isfinite(rate) and rate > 0 else 25.0
            packets, hidden = _packets(container, stream)
            self.declared = max(stream.frames - hidden, 0)
        keys = sorted((packet.pts, packet.dts) for packet in packets if packet.key and packet.pts is not None)
        self._keys, self._decoding_times = [pts for pts, _ in keys], dict(keys)
        # Frames before the first key frame do not decode.
        start = self._keys[0] if self._keys else inf
        shown = [packet for packet in packets if packet.shown and (packet.pts is None or packet.pts >= start)]
        self._ticks = None if decode else _ordered([packet.pts for packet in shown])
        if self._ticks:
            ticks, last = self._ticks, max(shown).duration
        else:
            decoded = [(frame.pts, frame.duration) for frame in self._all()]
            ticks, last = [pts for pts, _ in decoded], decoded[-1][1] if decoded else 0
        if not ticks:
            raise Ego2ExoError("holds no frame that decodes", "a complete file", "repair the file or remove it")
        self.timeline = _timeline(ticks, self._base, self._header_rate, last or 0)
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
            yield from _shown(container, stream, self._limits)
        except require_av().error.FFmpegError as error:
            raise WrongTimes from error

    def _all(self) -> Iterator[Any]:
        with closing(_open(self._path, self._limits)) as container:
            yield from _shown(container, _video_stream(container), self._limits)

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
    container = require_av().open(path, metadata_errors="ignore")
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


def _shown(container: Any, stream: Any, limits: VideoLimits) -> Iterator[Any]:
    """Decoded frames that are not before second 0 and have a size within the limits."""
    for frame in container.decode(stream):
        heartbeat()
        _check_size(frame.width, frame.height, limits)
        if (frame.pts or 0) >= 0:
            yield frame


def _ordered(ticks: Sequence[int | None]) -> list[int] | None:
    """Times in the order of presentation; None if they are no presentation times."""
    if None in ticks:
        return None
    order = sorted(range(len(ticks)), key=ticks.__getitem__)
    ordered = [ticks[index] for index in order]
    if any(abs(new - old) > _REORDERED for new, old in enumerate(order)) or len(set(ordered)) < len(ordered):
        return None
    return ordered


def _timeline(ticks: Sequence[int | None], base: Any, header_rate: float, last: int) -> Timeline:
    """From times in the time base, as frames are shown; those that are missing are interpolated."""
    import numpy as np

    ordered, count, numbers = _ordered(ticks), len(ticks), np.arange(len(ticks))
    times = _interpolated(ticks, float(base), header_rate) if ordered is None else np.array(ordered) * float(base)
    times = times - times[0]
    for rate in (header_rate, (count - 1) / times[-1] if count > 1 else header_rate):
        # Both ends of a time are rounded to the time base, or to milliseconds before.
        if np.abs(times - numbers / rate).max() <= max(0.0015, min(float(base), 0.1 / rate)):
            return Timeline(numbers / rate, count / rate, rate, True)
    # Recorders give the last frame a duration of almost nothing.
    duration = float(times[-1] + max(last * base, np.median(np.diff(times))))
    return Timeline(times, duration, count / duration, False)


def _interpolated(ticks: Sequence[int | None], base: float, rate: float) -> Any:
    """Seconds that increase where few times are known: at a constant rate, unless the known ones contradict it."""
    import numpy as np

    known: list[tuple[int, float]] = []
    for index, tick in enumerate(ticks):
        if tick is not None and (not known or tick * base > known[-1][1]):
            known.append((index, tick * base))
    numbers = np.arange(len(ticks))
    if not known:
        return numbers / rate
    places, values = map(np.array, zip(*known, strict=True))
    # The time of a block of data may be given to a neighbour of its frame.
    if np.abs(values - values[0] - (places - places[0]) / rate).max() < MISSING_S:
        return numbers / rate
    outside = np.minimum(numbers - places[0], 0) + np.maximum(numbers - places[-1], 0)
    return np.interp(numbers, places, values) + outside / rate
