"""The loop of `watch`: windows of a camera through the model, in time or not at all."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Ego2ExoError
from ..video import Clip
from .outputs import Line
from .source import Frame, Source, Window

if TYPE_CHECKING:
    from ..host.inference.ask import VideoModel
    from .questions import WatchQuestion

UNSURE = "cannot tell"


@dataclass(frozen=True)
class WatchSettings:
    """How a camera is watched.

    Args:
        camera: its name.
        window, every: seconds that a window shows, and from one to the next.
        sure: probability from which an option is an answer.
        fast: a file as fast as the model goes, not at its own speed.
    """

    camera: str
    window: float = 20.0
    every: float = 5.0
    sure: float = 0.6
    fast: bool = False

    def __post_init__(self) -> None:
        for name in ("window", "every"):
            if not 0 < getattr(self, name) <= 3600:
                raise Ego2ExoError(f"--{name} {getattr(self, name):g}", "more than 0, at most 3600 seconds", "")
        if not 0 <= self.sure <= 1:
            raise Ego2ExoError(f"--sure {self.sure:g}", "a probability, 0 to 1", "")


@dataclass
class Tally:
    """What one minute, or a whole run, has done."""

    windows: int = 0
    skipped: int = 0  # the model was still busy with an earlier one
    empty: int = 0  # no new frame since the last one
    seconds: list[float] = field(default_factory=list)

    def line(self, frames: int, reconnects: int) -> str:
        mean = f", {sum(self.seconds) / len(self.seconds):.2f} s a window" if self.seconds else ""
        parts = f"{frames} frames, {self.windows} windows, {self.skipped} skipped, {self.empty} without a new frame"
        return f"{parts}, {reconnects} reconnects{mean}"


def clip_of(frames: Sequence[Frame], most: int, exactly: bool = False) -> Clip:
    """The frames of a window as a clip: at most, or exactly, `most` of them, evenly spaced; 0: all."""
    count = most if most and (exactly or len(frames) > most) else len(frames)
    places = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    begin, end = frames[0][0], frames[-1][0]
    pictures = np.stack([frames[place][1] for place in places])
    return Clip(pictures, [frames[place][0] - begin for place in places], end - begin, places, 1.0)


def answers(model: VideoModel, questions: Sequence[WatchQuestion], clip: Clip, sure: float) -> Iterator[Line]:
    """What the model says of one window, which is encoded once for all questions."""
    prepared = model.prepare(clip)
    closed, free = ([one for one in questions if bool(one.options) == kind] for kind in (True, False))
    with model.one_encoding():
        found = model.probabilities(prepared, [(one.question, one.options) for one in closed]) if closed else []
        texts = model.answers(prepared, [one.question for one in free]) if free else []
    for one, shares in zip(closed, found, strict=True):
        best = max(shares, key=shares.__getitem__)
        yield {"question": one.name, "answer": best if shares[best] >= sure else UNSURE, "probabilities": shares}
    for one, answer in zip(free, texts, strict=True):
        yield {"question": one.name, "answer": answer.text}


class Watch:
    """One camera with its questions.

    Args:
        model: a loaded model.
        source: the camera.
        questions: asked of each window.
        settings: how.
        send: gets each answer.
        seen: gets the frames of each window.
        state: told when the camera begins or ceases to give frames.
        say: prints a line for a person.
    """

    def __init__(
        self, model: VideoModel, source: Source, questions: Sequence[WatchQuestion], settings: WatchSettings,
        send: Callable[[Line], None], seen: Callable[[Any], object], state: Callable[[bool], None],
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.model, self.source, self.questions, self.settings = model, source, questions, settings
        self.send, self.seen, self.state, self.say = send, seen, state, say
        self.window = Window(settings.window, source.fps)
        self.stop, self.fault = threading.Event(), None
        self.whole, self.minute = Tally(), Tally()
        self._since, self._frames = time.monotonic(), 0

    def run(self) -> Tally:
        """Until the source ends or `stop` is set."""
        if self.settings.fast:
            self._at_once()
        else:
            thread = threading.Thread(target=self._read, daemon=True)
            thread.start()
            self._in_time(thread)
        self.say(f"{self.settings.camera}: {self.whole.line(self.window.count, self.source.reconnects)}")
        if self.fault is not None:
            raise self.fault
        return self.whole

    def _at_once(self) -> None:
        due = None
        for frame in self.source.frames(self.stop):
            due = frame[0] + self.settings.every if due is None else due
            while frame[0] >= due:
                self._ask(self.window.frames())
                due += self.settings.every
            self.window.add(frame)
        if self.window.count:
            self._ask(self.window.frames())

    def _read(self) -> None:
        try:
            for frame in _paced(self.source.frames(self.stop), self.source.live, self.stop):
                self.window.add(frame)
        except Exception as error:  # raised again in `run`, when the loop has ended
            self.fault = error

    def _in_time(self, reader: threading.Thread) -> None:
        due, counted, there = time.monotonic() + self.settings.every, 0, None
        while reader.is_alive() and not self.stop.is_set():
            self.stop.wait(min(0.2, max(0.0, due - time.monotonic())))
            now = time.monotonic()
            alive = now - self.window.newest < max(self.source.silence, 2 * self.settings.every) and bool(counted)
            if there is not alive and (alive or now - self._since > self.source.silence):
                there = alive
                self.state(alive)
            if now - self._since >= 60:
                self._report()
            if now < due:
                continue
            late = int((now - due) // self.settings.every)  # windows that passed while the model was busy
            self._count(skipped=late)
            due += (late + 1) * self.settings.every
            if self.window.count == counted:
                self._count(empty=1)
                continue
            counted = self.window.count
            self._ask(self.window.frames())
        if not self.stop.is_set() and self.window.count > counted:
            self._ask(self.window.frames())

    def _ask(self, frames: list[Frame]) -> None:
        if not frames:
            self._count(empty=1)
            return
        started, how = time.monotonic(), self.model.settings
        clip = clip_of(frames, how.frames_upbound, how.force_sample)
        when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        head = {"time": when, "camera": self.settings.camera, "from": frames[0][0], "to": frames[-1][0]}
        self.seen(clip.frames)
        for line in answers(self.model, self.questions, clip, self.settings.sure):
            self.send({**head, **line})
        took = time.monotonic() - started
        self._count(windows=1)
        for tally in (self.whole, self.minute):
            tally.seconds.append(took)
        del self.whole.seconds[:-1000]

    def _count(self, **more: int) -> None:
        for tally in (self.whole, self.minute):
            for name, value in more.items():
                setattr(tally, name, getattr(tally, name) + value)

    def _report(self) -> None:
        self.say(
            f"{self.settings.camera}: {self.minute.line(self.window.count - self._frames, self.source.reconnects)}"
        )
        self.minute, self._since, self._frames = Tally(), time.monotonic(), self.window.count


def _paced(frames: Iterable[Frame], live: bool, stop: threading.Event) -> Iterator[Frame]:
    """A file's frames at their own speed; a stream's as they come."""
    began, first = time.monotonic(), None
    for frame in frames:
        if not live:
            first = frame[0] if first is None else first
            stop.wait(max(0.0, began + frame[0] - first - time.monotonic()))
        yield frame
