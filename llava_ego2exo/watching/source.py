"""Frames of a camera: an RTSP stream, a device or a file, as they come, across cuts of the stream."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    import numpy as np

_LONGEST_WAIT = 30.0  # seconds between two tries to connect
Frame = tuple[float, "np.ndarray"]  # seconds, (H, W, 3) uint8


class Source:
    """A camera.

    Args:
        address: an RTSP URL, a device as `/dev/video0`, or a file.
        fps: frames taken a second.
        silence: seconds without a frame after which a stream counts as dead.
        say: reports what happens to it.

    Raises:
        Ego2ExoError: it is none of these.
    """

    def __init__(self, address: str, fps: float, silence: float, say: Callable[[str], None]) -> None:
        self.address, self.fps, self.silence, self.say = address, fps, silence, say
        self.live = "://" in address or address.startswith("/dev/")
        if not self.live:
            _check_file(address)
        self._secret = re.search(r"://([^/]*@)", address)
        self.reconnects = 0

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Frames with their time in the stream; a file's end is the end, a stream is opened again until `stop`.

        Raises:
            Ego2ExoError: a file cannot be read.
        """
        import av

        wait = 1.0
        while not stop.is_set():
            try:
                for frame in self._opened(stop):
                    wait = 1.0
                    yield frame
                reason = "the stream ended"
                if not self.live:
                    return
            except (av.error.FFmpegError, OSError) as error:
                reason = str(error)
                if not self.live:
                    raise Ego2ExoError(f"{self.address} cannot be read: {reason}", "a video file") from error
            if stop.is_set():
                return
            text = f"{self.address}: {reason}; again in {wait:g} s"
            self.say(text.replace(self._secret[1], "") if self._secret else text)
            stop.wait(wait)
            self.reconnects += 1
            wait = min(2 * wait, _LONGEST_WAIT)

    def _opened(self, stop: threading.Event) -> Iterator[Frame]:
        import av

        options = {"rtsp_transport": "tcp"} if self.address.startswith("rtsp") else {}
        kind = "v4l2" if self.address.startswith("/dev/") else None
        timeout = (self.silence, self.silence) if self.live else None
        with av.open(self.address, format=kind, options=options, timeout=timeout) as container:
            if not container.streams.video:
                raise OSError("no video in it")
            yield from _sampled(container, self.fps, stop)


def _check_file(path: str) -> None:
    import av

    reason = "is not there"
    if Path(path).is_file():
        try:
            with av.open(path) as container:
                if container.streams.video:
                    return
            reason = "has no video in it"
        except av.error.FFmpegError:
            reason = "is no video that FFmpeg knows"
    raise Ego2ExoError(f"file {path} {reason}", "an RTSP URL, a device, or a video file", "check the path")


def _sampled(container: Any, fps: float, stop: threading.Event) -> Iterator[Frame]:
    """Every frame that is due, of all that are decoded."""
    due, last = None, 0.0
    for frame in container.decode(video=0):
        if stop.is_set():
            return
        now = last + 1 / fps if frame.time is None else float(frame.time)
        if due is None or now >= due - 1e-6 or now < last - 1:  # clocks of cameras jump back
            yield now, frame.to_ndarray(format="rgb24")
            due = (now if due is None or abs(now - due) > 1 / fps else due) + 1 / fps
        last = now


class Window:
    """The newest frames, of so many seconds; older ones are let go. For a thread that adds and one that looks."""

    def __init__(self, seconds: float, fps: float) -> None:
        self.seconds = seconds
        self._frames: deque[Frame] = deque(maxlen=max(1, round(seconds * fps)))
        self._lock = threading.Lock()
        self.count, self.newest = 0, time.monotonic()

    def add(self, frame: Frame) -> None:
        """Take a frame; one of another size begins anew, as does one from before."""
        with self._lock:
            if self._frames and (self._frames[-1][1].shape != frame[1].shape or frame[0] < self._frames[-1][0]):
                self._frames.clear()
            self._frames.append(frame)
            while frame[0] - self._frames[0][0] >= self.seconds:
                self._frames.popleft()
            self.count, self.newest = self.count + 1, time.monotonic()

    def frames(self) -> list[Frame]:
        """Those of the window now, oldest first."""
        with self._lock:
            return list(self._frames)
