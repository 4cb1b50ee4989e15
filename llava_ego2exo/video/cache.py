"""Frames of videos, decoded once and kept on disk for teacher, training and evaluation.

What is kept is what was decoded, byte by byte. A file that has changed, by its size or time of change, is another one.
"""

from __future__ import annotations

import functools
import multiprocessing
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from ..common.files import require_writable
from ..errors import Ego2ExoError
from . import reader
from .bounded_folder import BoundedFolder
from .frame_files import Source, key_of, pack_frames, pack_note, unpack_frames, unpack_note
from .limits import VideoLimits
from .reader import Clip


class Reader(Protocol):
    """What reads a clip as :func:`llava_ego2exo.video.read_video` does, within limits that are fixed."""

    def __call__(
        self, path: str, fps: int = 1, frames_upbound: int = 0, force_sample: bool = False,
        start_s: float | None = None, end_s: float | None = None,
    ) -> Clip: ...  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What a cache has done.

    Args:
        hits: clips that were there.
        misses: clips that were decoded.
        read: bytes of frames that were there.
        written: bytes of frames that were added.
        damaged: files that were not what their names said, and were decoded anew.
        removed: files that had to go for others.
        unwritten: clips that could not be added.
    """

    hits: int = 0
    misses: int = 0
    read: int = 0
    written: int = 0
    damaged: int = 0
    removed: int = 0
    unwritten: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def told(self) -> str:
        """In words."""
        text = (
            f"frame cache: {self.hits} clip(s) from it ({self.read / 1e6:.1f} MB), {self.misses} decoded "
            f"({self.written / 1e6:.1f} MB added)"
        )
        rest = {
            "damaged file(s) decoded anew": self.damaged,
            "file(s) removed to keep the bound": self.removed,
            "clip(s) not added": self.unwritten,
        }
        return ", ".join([text, *(f"{number} {what}" for what, number in rest.items() if number)])


_NAMES = tuple(field.name for field in fields(Counts))


class FrameCache:
    """Reads clips through a folder; a :class:`Reader`.

    Counts are shared with processes that are forked from this one, as a data loader's workers are.

    Args:
        folder: of the files; made where it is not there.
        most_gb: gigabytes (10^9 bytes) that it may hold.
        limits: what a video may be; None: the defaults.
    """

    def __init__(self, folder: str | Path, most_gb: float, limits: VideoLimits | None = None) -> None:
        self.limits = limits or VideoLimits()
        self.files = BoundedFolder(folder, int(most_gb * 1e9))
        # One more than the counts: whether it was told that nothing can be added.
        self._shared = multiprocessing.Array("q", len(_NAMES) + 1)

    @property
    def counts(self) -> Counts:
        """Of this process and its workers, so far."""
        with self._shared.get_lock():
            return Counts(*self._shared[: len(_NAMES)])

    def __call__(
        self, path: str, fps: int = 1, frames_upbound: int = 0, force_sample: bool = False,
        start_s: float | None = None, end_s: float | None = None,
    ) -> Clip:  # fmt: skip
        """Frames of a video or a part of it, as :func:`llava_ego2exo.video.read_video` gives them.

        Raises:
            Ego2ExoError: as there.
        """
        asked = {
            "fps": fps, "most": frames_upbound, "force": force_sample, "start_s": start_s, "end_s": end_s,
            "limits": self.limits.to_dict(),
        }  # fmt: skip
        try:
            source = Source.of(path)
        except OSError:
            source = None  # the reader says what is wrong with it
        clip = None if source is None else self._kept(source, asked)
        if clip is None:
            clip = reader.read_video(path, fps, frames_upbound, force_sample, start_s, end_s, self.limits)
            self._count(misses=1)
            if source is not None:
                self._keep(source, asked, clip)
        return clip

    def _kept(self, source: Source, asked: dict[str, Any]) -> Clip | None:
        note = self.files.path(key_of(source, asked), "clip")
        try:
            found = unpack_note(note, source, asked)
            file = self._frames_file(source, found["indices"])
            frames = unpack_frames(file, source, found["indices"])
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            self._count(damaged=1)
            return None
        self.files.used(note)
        self.files.used(file)
        self._count(hits=1, read=frames.nbytes)
        return Clip(frames=frames, **found)

    def _keep(self, source: Source, asked: dict[str, Any], clip: Clip) -> None:
        """Add a clip; that a disk is full stops no run."""
        found = {"indices": clip.indices, "times": clip.times, "duration": clip.duration, "rate": clip.rate}
        try:
            if Source.of(source.path) != source:  # it was written to while it was read
                return
            content = pack_frames(source, clip.indices, clip.frames)
            removed = self.files.put(self._frames_file(source, clip.indices), content)
            removed += self.files.put(self.files.path(key_of(source, asked), "clip"), pack_note(source, asked, found))
        except (Ego2ExoError, OSError) as error:
            self._count(unwritten=1)
            self._tell_once(error)
        else:
            self._count(written=clip.frames.nbytes, removed=removed)

    def _frames_file(self, source: Source, indices: list[int]) -> Path:
        return self.files.path(key_of(source, {"indices": indices}), "frames")

    def _count(self, **more: int) -> None:
        with self._shared.get_lock():
            for name, number in more.items():
                self._shared[_NAMES.index(name)] += number

    def _tell_once(self, error: Exception) -> None:
        with self._shared.get_lock():
            told, self._shared[-1] = self._shared[-1], 1
        if not told:
            reason = error.given if isinstance(error, Ego2ExoError) else str(error)
            print(f"ego2exo: a clip is not added to the frame cache: {reason}", file=sys.stderr, flush=True)  # noqa: T201


@dataclass(frozen=True)
class Reading:
    """How a run reads its clips.

    Args:
        frame_cache: folder where decoded frames are kept; None: every clip is decoded each time.
        frame_cache_gb: gigabytes (10^9 bytes) that it may hold.
        limits: what a video may be.

    Raises:
        Ego2ExoError: no run can read so.
    """

    frame_cache: str | None = None
    frame_cache_gb: float = 20.0
    limits: VideoLimits = VideoLimits()

    def __post_init__(self) -> None:
        if not (isfinite(self.frame_cache_gb) and self.frame_cache_gb > 0):
            raise Ego2ExoError(
                f"--frame-cache-gb {self.frame_cache_gb:g}", "a number above 0", "leave it out for the default"
            )
        if self.frame_cache is not None:
            require_writable(self.frame_cache, "--frame-cache", folder=True)

    def reader(self) -> Reader:
        """What reads them."""
        if self.frame_cache is None:
            return functools.partial(reader.read_video, limits=self.limits)
        return FrameCache(self.frame_cache, self.frame_cache_gb, self.limits)


def counts_of(read: Reader) -> Counts | None:
    """What a reader's cache has done; None where it has none."""
    return read.counts if isinstance(read, FrameCache) else None


def told_of(counts: Iterable[Counts | None]) -> list[str]:
    """What the caches of all processes have done, in words; nothing where they have none."""
    found = [one for one in counts if one is not None]
    return [sum(found, Counts()).told()] if found else []
