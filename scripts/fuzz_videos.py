"""Mutated videos through our reader and our probe: how many decode, are refused by name, or stop a decoder's process.

    python scripts/fuzz_videos.py --count 5000                        # drawn videos alone
    python scripts/fuzz_videos.py --count 5000 --videos some/folder   # and real ones

Bytes are flipped, fields of headers set to extremes, ranges cut out, swapped or repeated, ends cut off. Whatever comes
of it, this process must go on: an exception that is no Ego2ExoError, or an answer long after the limit, counts as lost,
and the script ends with exit code 1. The same seed makes the same mutations.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llava_ego2exo.distill.probe_pool import Prober  # noqa: E402
from llava_ego2exo.errors import Ego2ExoError  # noqa: E402
from llava_ego2exo.pages import markdown  # noqa: E402
from llava_ego2exo.video import VideoLimits, read_video  # noqa: E402

# What may come of a file, by what its failure says.
OUTCOMES = {
    "crashes the decoder": "decoder crashed",
    "does not decode within": "decoder hung",
    "makes the decoder answer wrongly": "decoder answered wrongly",
}
# Seconds that an answer may come after the limit: a new process has to start first, on a busy machine.
_LATE_S = 30.0
_LARGEST = 2_000_000
_SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts", ".flv"}
_FIELDS = re.compile(
    rb"ftyp|moov|mvhd|tkhd|mdhd|elst|stsd|avc1|avcC|hev1|hvcC|stts|ctts|stsc|stsz|stco|stss|moof|trun|tfhd|mdat|"
    rb"RIFF|avih|strh|strf|idx1|\x1aE\xdf\xa3|\x16T\xaek|\xae\xd7|\xe0|\x1fC\xb6u"
)
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE)


def main() -> int:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="mutations (default: 1000)")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long (default: not before the end)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=Path, help="a folder of real videos to mutate too")
    parser.add_argument("--limit-s", type=float, default=10.0, help="seconds that a decoder may take (default: 10)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files at a time")
    parser.add_argument("--keep", type=Path, help="folder for the files that stopped a decoder's process")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = [*drawn(Path(folder)), *real(args.videos)]
        fuzzer = Fuzzer(seeds, args.seed, VideoLimits(video_limit_s=args.limit_s), args.keep)
        found = fuzzer.run(args.count, args.seconds, args.workers, shown=sys.stderr.isatty())
    print(json.dumps(found, indent=1) if args.json else table(found))
    return 1 if found["lost"] else 0


def drawn(folder: Path) -> list[bytes]:
    """Small videos of every common kind."""
    from tests.hostile import encode

    kinds = {
        "a.mp4": {}, "b.mp4": {"container": {"movflags": "faststart"}}, "c.mp4": {"codec": "mpeg4"},
        "d.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "g": "4"}, "e.mp4": {"rotation": 90},
        "f.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "x265-params": "log-level=none"},
        "g.mkv": {"times": [150 * number + number**3 for number in range(12)]}, "h.mkv": {"codec": "ffv1"},
        "i.webm": {"codec": "libvpx-vp9"}, "j.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "k.ts": {},
        "l.mov": {"codec": "png", "pix_fmt": "rgb24"}, "m.flv": {"codec": "flv"}, "n.avi": {"codec": "msmpeg4"},
    }  # fmt: skip
    return [encode(folder / name, frames=12, **settings).read_bytes() for name, settings in kinds.items()]


def real(folder: Path | None) -> list[bytes]:
    """The smaller videos of a folder."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES) if folder else []
    return [file.read_bytes() for file in files if file.stat().st_size <= _LARGEST]


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The file after one to four changes."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        dice.choice(_CHANGES)(data, dice)
    return bytes(data)


def _flip(data: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 4, 32, 256))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _field(data: bytearray, dice: random.Random) -> None:
    """An extreme number behind the name of a header's part, or the part's size before it."""
    places = [match.start() for match in _FIELDS.finditer(data)]
    if places:
        at = dice.choice(places) + dice.choice((-4, 4, *range(4, 100)))
        _write(data, at, dice.choice((1, 2, 4)), dice)


def _edge(data: bytearray, dice: random.Random) -> None:
    """A number near the beginning or the end, where headers and indices are."""
    at = dice.randrange(min(1024, len(data)))
    _write(data, dice.choice((at, len(data) - at)), dice.choice((1, 2, 4, 8)), dice)


def _write(data: bytearray, at: int, size: int, dice: random.Random) -> None:
    number = dice.choice((*_EXTREMES, dice.getrandbits(32))) & ((1 << 8 * size) - 1)
    if 0 <= at <= len(data) - size:
        data[at : at + size] = number.to_bytes(size, dice.choice(("big", "little")))


def _cut_off(data: bytearray, dice: random.Random) -> None:
    del data[dice.randrange(1, len(data)) :]


def _cut_out(data: bytearray, dice: random.Random) -> None:
    first, last = _range(data, dice)
    if last - first < len(data):
        del data[first:last]


def _swap(data: bytearray, dice: random.Random) -> None:
    (first, last), (other, end) = sorted((_range(data, dice), _range(data, dice)))
    if last <= other:
        data[first:end] = data[other:end] + data[last:other] + data[first:last]


def _repeat(data: bytearray, dice: random.Random) -> None:
    first, last = _range(data, dice)
    if len(data) < _LARGEST * 2:
        data[last:last] = data[first:last] * dice.choice((1, 2, 8))


def _noise(data: bytearray, dice: random.Random) -> None:
    first, last = _range(data, dice)
    data[first:last] = dice.choice((bytes(last - first), b"\xff" * (last - first), dice.randbytes(last - first)))


def _range(data: bytearray, dice: random.Random) -> tuple[int, int]:
    first = dice.randrange(len(data))
    return first, min(first + dice.choice((1, 4, 16, 256, 4096, 65536)), len(data))


_CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _field, _field, _edge, _cut_off, _cut_out, _swap, _repeat, _noise,
)  # fmt: skip


class Fuzzer:
    """Counts what comes of mutations.

    Args:
        seeds: contents of good videos.
        seed: of the mutations.
        limits: of the reader and the probe.
        keep: folder for files that stopped a process; None: they are thrown away.
    """

    def __init__(self, seeds: list[bytes], seed: int, limits: VideoLimits, keep: Path | None = None) -> None:
        self.seeds, self.seed, self.limits, self.keep = seeds, seed, limits, keep
        self.counts: dict[str, Counter[str]] = {"reader": Counter(), "probe": Counter()}
        self.lost: list[str] = []

    def run(self, count: int, seconds: float, workers: int, shown: bool) -> dict:
        """Try mutations, several at a time.

        Args:
            count: how many.
            seconds: stop after so long; 0: not before the end.
            workers: files at a time.
            shown: show a line that counts them.
        """
        begun, tried = time.monotonic(), 0
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.prober = stack.enter_context(Prober(self.limits))
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            numbers = _until(count, begun + seconds if seconds else float("inf"))
            for start in _blocks(numbers, workers * 8):
                list(pool.map(self._try, start))
                tried += len(start)
                if shown:
                    print(f"\r{tried} of {count}, {len(self.lost)} lost", end="", file=sys.stderr, flush=True)
        if shown:
            print(file=sys.stderr)
        counts = {who: dict(sorted(counter.items())) for who, counter in self.counts.items()}
        passed = round(time.monotonic() - begun, 1)
        return {"mutations": tried, "videos": len(self.seeds), "seed": self.seed, **counts,
                "lost": self.lost, "seconds": passed}  # fmt: skip

    def _try(self, number: int) -> None:
        dice = random.Random(f"{self.seed}:{number}")
        file = self.folder / f"{number}.mp4"
        file.write_bytes(mutated(dice.choice(self.seeds), dice))
        asked = {"reader": self._read, "probe": lambda path: self.prober.probe(path).error}
        for who, ask in asked.items():
            begun = time.monotonic()
            try:
                error = ask(str(file))
            except Exception as other:
                error = f"{type(other).__name__}: {other}"
                self.lost.append(f"{who}, mutation {number}: {error}")
            if time.monotonic() - begun > self.limits.video_limit_s + _LATE_S:
                self.lost.append(f"{who}, mutation {number}: answered after {time.monotonic() - begun:.0f} s")
            outcome = _outcome(error)
            self.counts[who][outcome] += 1
            if self.keep and outcome in OUTCOMES.values():
                self.keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self.keep / f"{self.seed}-{number} {who} {outcome}.mp4")
        file.unlink()

    def _read(self, path: str) -> str:
        try:
            read_video(path, frames_upbound=4, force_sample=True, limits=self.limits)
        except Ego2ExoError as error:
            return str(error)
        return ""


def _outcome(error: str) -> str:
    if not error:
        return "decoded"
    return next((outcome for text, outcome in OUTCOMES.items() if text in error), "refused by name")


def _until(count: int, end: float) -> Iterator[int]:
    for number in range(count):
        if time.monotonic() > end:
            return
        yield number


def _blocks(numbers: Iterator[int], size: int) -> Iterator[list[int]]:
    while block := list(islice(numbers, size)):
        yield block


def table(found: dict) -> str:
    """The counts as a Markdown table."""
    lines = [
        f"{found['mutations']} mutations of {found['videos']} videos, seed {found['seed']}, {found['seconds']} s",
        "",
    ]
    names = ["decoded", "refused by name", *OUTCOMES.values()]
    rows = [[name, found["reader"].get(name, 0), found["probe"].get(name, 0)] for name in names]
    lines += markdown.table(["what came of it", "reader", "probe"], rows)
    return "\n".join([*lines, "", f"lost: {len(found['lost'])}", *found["lost"][:20]])


if __name__ == "__main__":
    sys.exit(main())
