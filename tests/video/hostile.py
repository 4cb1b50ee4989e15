"""Videos that are strange, or broken, or meant to break a reader; each is made in milliseconds."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path, size: tuple[int, int] = (64, 96), frames: int = 8, codec: str = "libx264", pix_fmt: str = "yuv420p",
    rate: int = 4, times: list[int] | None = None, rotation: int = 0, container: dict[str, str] | None = None,
    **options: str,
) -> Path:  # fmt: skip
    """A video whose top left quarter is red and bottom right quarter blue.

    `times` are milliseconds of each frame, for a changing rate; `rotation` degrees, counter-clockwise.
    """
    height, width = size
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if not frames:
            stream.codec_context.open()
            file.start_encoding()
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(size, index), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def picture(size: tuple[int, int], index: int) -> np.ndarray:
    """The picture that :func:`encode` stores: (H, W, 3) uint8."""
    height, width = size
    image = np.full((height, width, 3), 40 + 12 * (index % 16), np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[-(height // 2) :, -(width // 2) :] = (30, 30, 220)
    return image


def bomb(path: Path, side: int, said: int = 0) -> Path:
    """Two frames of `side` x `side` pixels as PNG, in an .avi whose header may say another side."""
    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = ((b"IHDR", struct.pack(">2I5B", side, side, 1, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b""))
    image = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in chunks)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "monob"
        for number in range(2):
            packet = av.Packet(image)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 4)
            file.mux(packet)
    sizes = [struct.pack("<2i", size, size) for size in (64, said or side)]
    path.write_bytes(path.read_bytes().replace(*sizes))
    return path


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def audio(path: Path) -> Path:
    """One second of silence."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for index in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
