"""Videos for the tests: each frame shows its own number, in a way that survives encoding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BLOCK = 16


def render(
    path: Path, seconds: float, shade: int = 0, size: tuple[int, int] = (64, 160), pix_fmt: str = "yuv420p",
    codec: str = "libx264", container: str | None = None, times: Sequence[int] | None = None,
    rate: int = 10, muxing: dict[str, str] | None = None, **options: str,
) -> Path:  # fmt: skip
    """Write `rate` frames a second; frame i shows i in binary, as black and white blocks of the top row, on grey.

    `times` are milliseconds of each frame instead, in a file whose header claims 1000 frames a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fast = {"preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", format=container, options=muxing or {}) as file:
        stream = file.add_stream(codec, rate=1000 if times else rate, options={"g": "25", **fast, **options})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000 if times else rate)
        for index in range(len(times) if times else round(seconds * rate)):
            picture = np.full((*size, 3), shade, dtype=np.uint8)
            for bit in range(10):
                picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> bit & 1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (times[index], Fraction(1, 1000)) if times else (index, Fraction(1, rate))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def numbers(path: str | Path) -> list[int]:
    """The numbers that the frames of a video show."""
    with av.open(str(path)) as container:
        return [number(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]


def number(picture: np.ndarray) -> int:
    """The number that one frame shows; (H, W) grey or (H, W, 3)."""
    picture = picture if picture.ndim == 2 else picture[..., 1]
    middle = picture[BLOCK // 2, BLOCK // 2 :: BLOCK][:10]
    return int(sum(int(value > 127) << bit for bit, value in enumerate(middle)))
