"""Short videos that a tiny model can distinguish: one coloured shape crossing the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
QUESTION = "What moves, and where to?"


def render_clip(
    path: Path, colour: str, move: str, frames: int = 8, size: int = 64, rate: int = 2, seed: int = 0
) -> None:
    """Write one `.mp4` of `size` by `size` pixels; the seed is that of the background's noise."""
    import av

    noise = np.random.default_rng(seed).integers(0, 40, (size, size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for index in range(frames):
            picture = noise.copy()
            reach = (index / (frames - 1) - 0.5) * size * 0.6
            x, y = (int(size / 2 + reach * step) for step in MOVES[move])
            picture[y - size // 8 : y + size // 8, x - size // 8 : x + size // 8] = COLOURS[colour]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def render_set(folder: Path, count: int = 4) -> Path:
    """Write `count` videos and a LLaVA training JSON about them; the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for index in range(count):
        colour, move = list(COLOURS)[index % 4], list(MOVES)[(index + index // 4) % 4]
        name = f"{index:02d}_{colour}_{move}.mp4"
        render_clip(folder / name, colour, move, seed=index)
        samples.append(sample(name, f"A {colour} block moves {move}."))
    return write_samples(folder / "train.json", samples)


def sample(video: str, answer: str, question: str = QUESTION) -> dict[str, object]:
    """One entry of a LLaVA training JSON."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": Path(video).stem, "video": video, "conversations": turns}


def write_samples(path: Path, samples: list[dict[str, object]]) -> Path:
    """Write a training JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(samples, indent=1))
    return path
