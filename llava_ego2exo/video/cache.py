"""Decoded frames kept in a folder, for teacher, training and evaluation.

Each clip is one `.npz` file. Its name is a hash of the video (path, size, time of change), of how frames are sampled
and of the decoder's version, so a changed video is a new clip. Processes and machines may share the folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ..common.files import require_writable, write_atomic
from ..errors import Ego2ExoError
from . import reader
from .limits import VideoLimits
from .reader import Clip

_VERSION = 1  # another number invalidates older files
_NAME = re.compile(r"[0-9a-f]{32}\.npz|\.[0-9a-f]{32}\.npz\..+\.part")
# Checkpoints may be on the same disk; the cache leaves them its last bytes.
_SPARE_BYTES, _SPARE_SHARE = 1_000_000_000, 0.05
_KEPT_SHARE = 0.9  # of the maximum after files were removed, so that the next files need no removal


Reader = Callable[..., Clip]  # called like :func:`llava_ego2exo.video.read_video`, with fixed limits


class CacheStats(NamedTuple):
    """What a cache has done: clips read from it, decoded, files removed to make room, clips that could not be added."""

    hits: int
    misses: int
    removed: int
    failed: int


class FrameCache:
    """A :class:`Reader` that decodes each clip once; a file that is damaged, or not one of the cache's, is a miss.

    Statistics include processes forked from this one, such as a data loader's workers.

    Args:
        folder: created if missing.
        max_gb: gigabytes (10^9 bytes) it may hold. Processes that write at the same moment may exceed it a little.
        limits: of a video; None: the defaults.
    """

    def __init__(self, folder: str | Path, max_gb: float, limits: VideoLimits | None = None) -> None:
        self.folder, self.max_bytes, self.limits = Path(os.path.abspath(folder)), int(max_gb * 1e9), limits
        self._stats = multiprocessing.Array("q", len(CacheStats._fields))
        self._unchecked = 0  # bytes that may be written before the folder's size is checked again

    @property
    def stats(self) -> CacheStats:
        with self._stats.get_lock():
            return CacheStats(*self._stats)

    def __call__(
        self, path: str, fps: int = 1, frames_upbound: int = 0, force_sample: bool = False,
        start_s: float | None = None, end_s: float | None = None,
    ) -> Clip:  # fmt: skip
        """See :func:`llava_ego2exo.video.read_video`."""
        sampling = (fps, frames_upbound, force_sample, start_s, end_s)
        file = self._file(path, sampling)
        clip = None if file is None else _load(file)
        if clip is not None:
            self._count("hits")
            return clip
        clip = reader.read_video(path, *sampling, self.limits)
        self._count("misses")
        if file is not None:
            self._store(file, clip)
        return clip

    def _file(self, path: str, sampling: tuple[Any, ...]) -> Path | None:
        """A clip's place; None if there is no such video."""
        limits = (self.limits or VideoLimits()).to_dict()
        del limits["video_limit_s"]  # how long decoding took changes no frame
        real = os.path.realpath(path)
        try:
            stat = os.stat(real)
        except OSError:
            return None
        key = [_VERSION, _decoder(), real, stat.st_size, stat.st_mtime_ns, sampling, limits]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npz"

    def _store(self, file: Path, clip: Clip) -> None:
        """Add a clip; a full disk must not stop a run."""
        import numpy as np

        content = io.BytesIO()
        note = json.dumps([clip.times, clip.duration, clip.indices, clip.rate, clip.frames.shape])
        np.savez(content, note=np.array(note), frames=clip.frames)
        try:
            self._make_room(content.tell())
            write_atomic(file, content.getbuffer(), sync=False)
        except (Ego2ExoError, OSError) as error:
            if self._count("failed") == 1:
                reason = error.given if isinstance(error, Ego2ExoError) else error
                print(f"ego2exo: clips are not added to the frame cache: {reason}", file=sys.stderr)  # noqa: T201

    def _make_room(self, size: int) -> None:
        if size > self.max_bytes:
            raise Ego2ExoError(f"a clip has {size} bytes, the cache at most {self.max_bytes}")
        self.folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(self.folder)
        if disk.free - size < min(_SPARE_BYTES, _SPARE_SHARE * disk.total):
            raise Ego2ExoError(f"only {disk.free} bytes are free on the disk of {self.folder}")
        self._unchecked -= size
        if self._unchecked < 0:
            total = self._remove_oldest(size)
            # Many processes may each write so much before any of them checks again.
            self._unchecked = (self.max_bytes - total) // 64

    def _remove_oldest(self, size: int) -> int:
        """Remove files until `size` more bytes fit; the bytes that are left."""
        files = sorted(_files(self.folder))
        total = sum(held for _, _, held in files)
        if total + size <= self.max_bytes:
            return total
        for _, path, held in files:
            if total <= min(_KEPT_SHARE * self.max_bytes, self.max_bytes - size):
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                self._count("removed")
            total -= held
        return total

    def _count(self, name: str) -> int:
        """Add one to a statistic; its new value."""
        with self._stats.get_lock():
            place = CacheStats._fields.index(name)
            self._stats[place] += 1
            return self._stats[place]


def _load(file: Path) -> Clip | None:
    """A stored clip; None if there is none, or the file is damaged."""
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as data:
            times, duration, indices, rate, shape = json.loads(str(data["note"]))
            frames = data["frames"]  # read to its end: the archive's checksum is compared
    except Exception:  # a damaged archive raises anything
        return None
    if frames.dtype != np.uint8 or list(frames.shape) != shape:
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # the time of last use
    return Clip(frames, times, duration, indices, rate)


def _files(folder: Path) -> Iterable[tuple[int, str, int]]:
    """(time of last use in ns, path, bytes) of the cache's files, and of those left by killed processes."""
    for entry in os.scandir(folder):
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):  # another process may have removed it
                stat = entry.stat(follow_symlinks=False)
                yield stat.st_mtime_ns, entry.path, stat.st_size


@functools.cache
def _decoder() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("av")
    return ""


@dataclass(frozen=True)
class ReaderSettings:
    """How a run reads its clips.

    Args:
        frame_cache: folder of the frame cache; None: every clip is decoded each time.
        frame_cache_gb: gigabytes (10^9 bytes) it may hold.
        limits: of a video.

    Raises:
        Ego2ExoError: a value is not allowed, or the folder is not writable.
    """

    frame_cache: str | None = None
    frame_cache_gb: float = 20.0
    limits: VideoLimits = VideoLimits()

    def __post_init__(self) -> None:
        if not (isfinite(self.frame_cache_gb) and self.frame_cache_gb > 0):
            raise Ego2ExoError(f"--frame-cache-gb {self.frame_cache_gb:g}", "a number above 0", "omit it for 20")
        if self.frame_cache is not None:
            require_writable(self.frame_cache, "--frame-cache", folder=True)

    def reader(self) -> Reader:
        """The reader, with a cache if there is a folder for it."""
        if self.frame_cache is None:
            return functools.partial(reader.read_video, limits=self.limits)
        return FrameCache(self.frame_cache, self.frame_cache_gb, self.limits)


def cache_stats(read: Reader | None) -> CacheStats | None:
    """Statistics of a reader's cache; None if it has none."""
    return read.stats if isinstance(read, FrameCache) else None


def format_stats(stats: Iterable[CacheStats | None]) -> list[str]:
    """One line about the caches of all processes; none without a cache."""
    found = [one for one in stats if one is not None]
    if not found:
        return []
    total = CacheStats(*map(sum, zip(*found, strict=True)))
    line = f"frame cache: {total.hits} clip(s) from the cache, {total.misses} decoded"
    line += f", {total.removed} file(s) removed to make room" if total.removed else ""
    return [line + (f", {total.failed} clip(s) could not be added" if total.failed else "")]
