"""What it costs to decode a clip in a process of its own: `read_video` beside decord in this process, the same frames.

    python scripts/bench_reader.py --videos some/folder

Each video is read with at most --frames frames, as LLaVA-NeXT takes them; the ways take turns. First comes a drawn clip
of --mb megabytes of frames that are cheap to decode: what is added there is mostly handing them over.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from _bench import add_common, machine, show, side_by_side, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    """Print milliseconds of both ways, and what the process adds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--videos", type=Path, help="a folder of videos to read too")
    parser.add_argument("--frames", type=int, default=32, help="most frames of a video (default: 32)")
    parser.add_argument("--mb", type=int, default=34, help="of frames of the drawn clip (default: 34)")
    add_common(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [drawn(Path(folder), args.mb, args.frames), *sorted(args.videos.iterdir() if args.videos else [])]
        rows = [measure(file, args) for file in files]
    found = {"machine": machine("cpu"), "frames": args.frames, "rows": [row for row in rows if row]}
    heads = ["video", "frames", "MB", "here, ms", "own process, ms", "added, ms", "ratio"]
    show(args, found, [found["machine"], "", *table(heads, [list(row.values()) for row in found["rows"]])])
    return 0


def drawn(folder: Path, megabytes: int, frames: int) -> Path:
    """A clip whose frames are cheap to decode and take so many megabytes."""
    from tests.common.hostile import encode

    height = max(round((megabytes * 1e6 / frames / 3 / (16 / 9)) ** 0.5 / 2) * 2, 16)
    return encode(folder / "drawn.mp4", (height, height * 16 // 18 * 2), frames, rate=1, preset="ultrafast")


def measure(file: Path, args: argparse.Namespace) -> dict | None:
    """Both ways for one file; nothing where it does not decode."""
    from llava_ego2exo.errors import Ego2ExoError
    from llava_ego2exo.video import read_video

    try:
        clip = read_video(str(file), frames_upbound=args.frames)
    except Ego2ExoError as error:
        print(f"left out: {error}", file=sys.stderr)
        return None
    ways = {
        "here": lambda: here(str(file), clip.indices),
        "process": lambda: read_video(str(file), frames_upbound=args.frames).frames,
    }
    assert (ways["here"]() == clip.frames).all()
    seconds = side_by_side(ways, args.rounds)
    inside, outside = seconds["here"] * 1e3, seconds["process"] * 1e3
    return {
        "video": file.name, "frames": len(clip.indices), "mb": round(clip.frames.nbytes / 1e6, 1),
        "here_ms": round(inside, 1), "process_ms": round(outside, 1), "added_ms": round(outside - inside, 1),
        "ratio": round(outside / inside, 2),
    }  # fmt: skip


def here(path: str, indices: list[int]) -> object:
    """The frames by decord in this process."""
    import decord

    return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1).get_batch(indices).asnumpy()


if __name__ == "__main__":
    sys.exit(main())
