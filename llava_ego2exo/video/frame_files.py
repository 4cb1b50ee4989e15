"""Decoded frames as files, byte by byte: a line of JSON that says what they are, then the pixels.

Nothing is unpickled. A file that is cut, changed, or not of the clip that was asked for is told from a good one by its
line, its length and a checksum.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Another number makes every older file a stranger.
_VERSION = 1
_LONGEST_HEAD = 1 << 20


@dataclass(frozen=True)
class Source:
    """A video file as it is now.

    Args:
        path: without links.
        size: bytes.
        mtime_ns: time of its last change.
        decoder: what decodes it: another version may round otherwise.
    """

    path: str
    size: int
    mtime_ns: int
    decoder: str

    @classmethod
    def of(cls, path: str) -> Source:
        """Of a file that is there; else an OSError."""
        real = os.path.realpath(path)
        stat = os.stat(real)
        return cls(real, stat.st_size, stat.st_mtime_ns, _decoder())


@functools.cache
def _decoder() -> str:
    try:
        return f"decord {metadata.version('decord')}"
    except metadata.PackageNotFoundError:
        return "none"


def key_of(source: Source, what: dict[str, Any]) -> str:
    """The name of a file: 32 hexadecimal digits.

    Args:
        source: the video.
        what: of it: the indices of frames, or how they are chosen.
    """
    text = json.dumps([_VERSION, asdict(source), what], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pack_note(source: Source, asked: dict[str, Any], found: dict[str, Any]) -> bytes:
    """What was found for a way of choosing frames, so that the next time needs no look into the video."""
    note = {"version": _VERSION, "source": asdict(source), "asked": asked, "found": found, "crc32": _checksum(found)}
    return (json.dumps(note) + "\n").encode()


def unpack_note(path: Path, source: Source, asked: dict[str, Any]) -> dict[str, Any]:
    """What :func:`pack_note` was given as `found`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not whole, or of something else.
    """
    with path.open("rb") as file:
        note, rest = _json(file.readline(_LONGEST_HEAD)), file.read(1)
    found = note.get("found")
    if rest or _about(note) != (_VERSION, asdict(source), asked) or not _is_found(found):
        raise ValueError(path)
    if _checksum(found) != note.get("crc32"):
        raise ValueError(path)
    return dict(found)


def _checksum(found: Any) -> int:
    return zlib.crc32(json.dumps(found, sort_keys=True).encode())


def _about(note: dict[str, Any]) -> tuple[Any, Any, Any]:
    return note.get("version"), note.get("source"), note.get("asked")


def _is_found(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == {"indices", "times", "duration", "rate"}


def pack_frames(source: Source, indices: list[int], frames: Any) -> bytes:
    """Frames (T, H, W, 3) uint8 with what they are."""
    import numpy as np

    pixels = np.ascontiguousarray(frames).data.cast("B")
    head = {
        "version": _VERSION, "source": asdict(source), "asked": indices,
        "shape": list(frames.shape), "crc32": zlib.crc32(pixels),
    }  # fmt: skip
    return b"".join([(json.dumps(head) + "\n").encode(), pixels])


def unpack_frames(path: Path, source: Source, indices: list[int]) -> Any:
    """Frames (T, H, W, 3) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not whole, or of something else.
    """
    import numpy as np

    with path.open("rb") as file:
        head = _json(file.readline(_LONGEST_HEAD))
        shape = head.get("shape")
        if _about(head) != (_VERSION, asdict(source), indices) or not _is_shape(shape, len(indices)):
            raise ValueError(path)
        # Before memory is asked for: a damaged shape may be of any size.
        if os.fstat(file.fileno()).st_size != file.tell() + int(np.prod(shape, dtype=object)):
            raise ValueError(path)
        frames = np.empty(shape, dtype=np.uint8)
        pixels = frames.data.cast("B")
        if file.readinto(pixels) != frames.nbytes or zlib.crc32(pixels) != head.get("crc32"):  # type: ignore[attr-defined]
            raise ValueError(path)
    return frames


def _json(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not line.endswith(b"\n") or not isinstance(value, dict):
        raise ValueError("no line of JSON")
    return value


def _is_shape(shape: Any, count: int) -> bool:
    whole = isinstance(shape, list) and len(shape) == 4 and all(type(one) is int and one > 0 for one in shape)
    return whole and shape[0] == count and shape[3] == 3
