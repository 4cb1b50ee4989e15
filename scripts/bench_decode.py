"""Seconds to read a clip: by decord in this process, by our worker process, and with a cold and a warm frame cache.

    python scripts/bench_decode.py --videos some/folder

Each video is read with at most --frames frames at one a second, as LLaVA-NeXT reads it; the frames are compared before
anything is timed. Drawn clips are 1280 x 720, h264, with a keyframe each second, with one keyframe alone, and with one
frame a second, which is the cheapest to decode: there the transfer between processes weighs most.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import add_common, machine, show, side_by_side, table

WAYS = ("decord here", "worker", "cold cache", "warm cache")
RATE = 30


def main() -> int:
    """Print seconds of each way, and their ratio to decord in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos to read too")
    parser.add_argument("--seconds", type=int, default=32, help="of the drawn clips (default: 32)")
    parser.add_argument("--frames", type=int, default=32, help="maximum frames of a video (default: 32)")
    add_common(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [
            draw(folder / "a keyframe each second.mp4", args.seconds, RATE, RATE),
            draw(folder / "one keyframe.mp4", args.seconds, RATE, args.seconds * RATE),
            draw(folder / "one frame a second.mp4", args.seconds, 1, 1),
            *sorted(args.videos.iterdir() if args.videos else []),
        ]
        rows = {file.name: row for file in files if (row := measure(file, folder / "cache", args))}
    found = {"machine": machine("cpu"), "frames": args.frames, "rows": rows}
    cells = [
        [name, f"{row['MB']:.0f}", *(f"{row[way]:.3f} ({row[way] / row[WAYS[0]]:.2f})" for way in WAYS)]
        for name, row in rows.items()
    ]
    show(args, found, [found["machine"], "", *table(["seconds (ratio)", "MB of frames", *WAYS], cells)])
    return 0


def measure(file: Path, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """MB of frames, and seconds of each way; nothing for a video that does not decode."""
    from llava_ego2exo.errors import Ego2ExoError
    from llava_ego2exo.video import read_video
    from llava_ego2exo.video.cache import FrameCache

    def cold() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return FrameCache(folder, 100)(str(file), frames_upbound=args.frames)

    try:
        clip = cold()
    except Ego2ExoError as error:
        print(f"left out: {error}", file=sys.stderr)
        return {}
    ways: dict[str, Callable[[], Any]] = {
        WAYS[0]: lambda: read_here(str(file), clip.indices),
        WAYS[1]: lambda: read_video(str(file), frames_upbound=args.frames).frames,
        WAYS[2]: lambda: cold().frames,
        WAYS[3]: lambda: FrameCache(folder, 100)(str(file), frames_upbound=args.frames).frames,
    }
    if not all((way() == clip.frames).all() for way in ways.values()):
        sys.exit(f"{file}: the ways give other frames")
    return {"MB": clip.frames.nbytes / 1e6, **side_by_side(ways, args.rounds)}


def read_here(path: str, indices: list[int]) -> Any:
    """Frames by decord in this process, as LLaVA-NeXT calls it."""
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()


def draw(path: Path, seconds: int, rate: int, gap: int) -> Path:
    """A pattern that moves over noise, 1280 x 720, h264.

    Args:
        path: the file.
        seconds: its length.
        rate: frames per second.
        gap: frames from one keyframe to the next.
    """
    import av
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "g": str(gap), "keyint_min": str(gap), "sc_threshold": "0"}
        for number in range(seconds * rate):
            picture = np.roll(noise, (2 * number, 5 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    raise SystemExit(main())
