"""Videos for the tests: each frame shows its own number, in a way that survives encoding."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

BLOCK = 16


def render(
    path: Path, seconds: float, shade: int = 0, size: tuple[int, int] = (64, 160), pix_fmt: str = "yuv420p"
) -> Path:
    """Write 10 frames a second; frame i shows i in binary, as black and white blocks of the top row, on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "25", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        for index in range(round(seconds * 10)):
            picture = np.full((*size, 3), shade, dtype=np.uint8)
            for bit in range(10):
                picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> bit & 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(path: str | Path) -> list[int]:
    """The numbers that the frames of a video show."""
    with av.open(str(path)) as container:
        return [_number(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]


def _number(picture: np.ndarray) -> int:
    middle = picture[BLOCK // 2, BLOCK // 2 :: BLOCK][:10]
    return int(sum(int(value > 127) << bit for bit, value in enumerate(middle)))
