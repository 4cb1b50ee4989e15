"""Seconds to read a clip: by decord in this process, by our worker process, and with a cold and a warm frame cache.

    python scripts/bench_decode.py --minutes 0.5 30 --frames 8 32 180

Each decoder has one thread. Frames are evenly spaced, and compared before anything is timed. The drawn clips are
1280 x 720, H.264 with B-frames, 30 frames a second, a key frame every 250; a long one repeats the first 30 s.
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
RATE, SECONDS = 30, 30


def main() -> int:
    """Print seconds of each way, and their ratio to decord in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos to read too")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 30], help="of the drawn clips")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32, 180], help="of a video")
    add_common(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = draw(folder / "30 s.mp4")
        files = [repeat(first, folder / f"{minutes:g} min.mp4", minutes) for minutes in args.minutes]
        files += sorted(args.videos.iterdir()) if args.videos else []
        rows = {}
        for file in files:
            for frames in args.frames:
                if row := measure(file, folder / "cache", frames, args.rounds):
                    rows[f"{file.name}, {frames} frames"] = row
    found = {"machine": machine("cpu"), "rows": rows}
    cells = [
        [name, f"{row['MB']:.0f}", *(f"{row[way]:.3f} ({row[way] / row[WAYS[0]]:.2f})" for way in WAYS)]
        for name, row in rows.items()
    ]
    show(args, found, [found["machine"], "", *table(["seconds (ratio)", "MB of frames", *WAYS], cells)])
    return 0


def measure(file: Path, folder: Path, frames: int, rounds: int) -> dict[str, float]:
    """MB of frames, and seconds of each way; nothing for a video that does not decode."""
    from llava_ego2exo.errors import Ego2ExoError
    from llava_ego2exo.video import read_video
    from llava_ego2exo.video.cache import FrameCache

    sampling = {"frames_upbound": frames, "force_sample": True}

    def cold() -> Any:
        shutil.rmtree(folder, ignore_errors=True)
        return FrameCache(folder, 100)(str(file), **sampling)

    try:
        clip = cold()
    except Ego2ExoError as error:
        print(f"left out: {error}", file=sys.stderr)
        return {}
    ways: dict[str, Callable[[], Any]] = {
        WAYS[0]: lambda: read_here(str(file), clip.indices),
        WAYS[1]: lambda: read_video(str(file), **sampling).frames,
        WAYS[2]: lambda: cold().frames,
        WAYS[3]: lambda: FrameCache(folder, 100)(str(file), **sampling).frames,
    }
    if not all((way() == clip.frames).all() for way in ways.values()):
        sys.exit(f"{file}: the ways give other frames")
    return {"MB": clip.frames.nbytes / 1e6, **side_by_side(ways, rounds)}


def read_here(path: str, indices: list[int]) -> Any:
    """Frames by decord in this process, as LLaVA-NeXT calls it."""
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()


def draw(path: Path) -> Path:
    """A pattern that moves over noise."""
    import av
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(SECONDS * RATE):
            picture = np.roll(noise, (2 * number, 5 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeat(source: Path, path: Path, minutes: float) -> Path:
    """The packets of a clip one after another, without encoding them again."""
    import av

    with av.open(str(path), "w") as out:
        copy = None
        for number in range(round(minutes * 60 / SECONDS)):
            with av.open(str(source)) as file:
                stream = file.streams.video[0]
                copy = copy or out.add_stream_from_template(stream)
                shift = round(number * SECONDS / stream.time_base)
                for packet in file.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                        out.mux(packet)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
