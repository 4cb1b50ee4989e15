"""Our reading of clips beside LLaVA-NeXT's own: without, with a cold, with a warm frame cache; and what training waits.

    PYTHONPATH=LLaVA-NeXT python scripts/bench_decode.py

Drawn clips are h264 of a moving pattern, with a keyframe each second, or with one at the beginning alone. Real ones are
those of the developers' machines (EGO2EXO_SHARED). A cold cache is an empty folder: decoding and writing. Frames are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _bench import add_common, machine, show, side_by_side, table

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("EGO2EXO_SHARED", ROOT.parent / "shared")) / "data" / "videos"
REAL_NAMES = ("flipping_a_pancake.mkv", "xU25MMA2N4aVtYay.mp4")
RATE = 30
WAYS = ("LLaVA's reader", "ours, no cache", "ours, cold cache", "ours, warm cache")


def main() -> int:
    """Print seconds, shares and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--seconds", type=int, default=30, help="of each drawn clip, 1280 x 720, 30 frames a second")
    parser.add_argument("--clips", type=int, default=4, help="of each kind, for the loader and for training")
    parser.add_argument("--frames", type=int, default=32, help="most frames of a clip (--frames_upbound)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="--dataloader_num_workers")
    args = parser.parse_args()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what LLaVA prints when imported is no part of --json
            from llava.utils import process_video_with_decord
    except ImportError:
        sys.exit("this compares with LLaVA-NeXT's own reader: put a LLaVA-NeXT checkout on PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder), process_video_with_decord)
        found = {"machine": machine(args.device), "frames": args.frames, "seconds": args.seconds, "clips": args.clips}
        found |= {"reading": bench.reading(), "loader": bench.loader(), "training": bench.training()}
    show(args, found, lines(found))
    return 0


class Bench:
    """Clips, and the ways to read them.

    Args:
        args: of the command line.
        folder: for clips, caches and models.
        theirs: LLaVA's reader.
    """

    def __init__(self, args: argparse.Namespace, folder: Path, theirs: Callable[..., Any]) -> None:
        self.args, self.folder, self.theirs = args, folder, theirs
        self.numbers = itertools.count()
        (folder / "clips").mkdir()
        self.kinds = {
            f"{name}, drawn": self._drawn(name, gap) for name, gap in (("keyframe each s", RATE), ("one keyframe", 0))
        }
        for name in REAL_NAMES:
            if (REAL / name).is_file():
                self.kinds[name] = [str(REAL / name)]
            else:
                print(f"{name}: not there, left out (set EGO2EXO_SHARED)", file=sys.stderr)
        for paths in self.kinds.values():
            self._compare(paths[0])

    def reading(self) -> dict[str, dict[str, float]]:
        """Kind of clip -> way -> seconds a clip, read in this process."""
        return {
            kind: side_by_side({way: self._reads(way, paths[:1]) for way in WAYS}, self.args.rounds)
            for kind, paths in self.kinds.items()
        }

    def loader(self) -> dict[str, dict[str, float]]:
        """Workers -> way -> seconds a clip through a data loader, its start included."""
        paths, found = self._all_drawn(), {}
        for workers in self.args.workers:
            ways = {way: self._loads(way, paths, workers) for way in WAYS}
            seconds = side_by_side(ways, self.args.rounds)
            found[f"{workers} workers"] = {way: value / len(paths) for way, value in seconds.items()}
        return found

    def training(self) -> dict[str, dict[str, dict[str, float]]]:
        """Workers -> way -> seconds a step of a tiny model, and the share of it spent waiting for data."""
        from llava_ego2exo.demo.models import tiny_llava

        base, found = tiny_llava(self.folder / "base_llama", "llama"), {}
        for workers in self.args.workers:
            warm = self.folder / f"cache{next(self.numbers)}"
            flags: dict[str, dict[str, Any]] = {
                WAYS[0]: {}, WAYS[1]: {},
                WAYS[2]: {"ego2exo_frame_cache": warm}, WAYS[3]: {"ego2exo_frame_cache": warm},
            }  # fmt: skip
            found[f"{workers} workers"] = {
                way: self._train(base, workers, given, way == WAYS[0]) for way, given in flags.items()
            }
        return found

    def _drawn(self, name: str, gap: int) -> list[str]:
        """One clip, and copies of it: other files for a cache."""
        first = self.folder / "clips" / f"{name.replace(' ', '_')}_0.mp4"
        draw(first, self.args.seconds, gap or self.args.seconds * RATE)
        paths = [first, *(first.with_name(first.name.replace("_0", f"_{n}")) for n in range(1, self.args.clips))]
        for path in paths[1:]:
            shutil.copy(first, path)
        return [str(path) for path in paths]

    def _all_drawn(self) -> list[str]:
        return [path for kind, paths in self.kinds.items() if kind.endswith("drawn") for path in paths]

    def _compare(self, path: str) -> None:
        import numpy as np

        ours, theirs = self._reader(WAYS[1])(path), self._reader(WAYS[0])(path)
        if not np.array_equal(ours, theirs):
            sys.exit(f"{path}: our frames are not LLaVA's")

    def _reader(self, way: str, cache: Path | None = None) -> Callable[[str], Any]:
        """path -> frames."""
        if way == WAYS[0]:
            asked = SimpleNamespace(video_fps=1, frames_upbound=self.args.frames, force_sample=False)
            return lambda path: self.theirs(path, asked)[0]

        from llava_ego2exo.video.cache import ReaderSettings

        read = ReaderSettings(None if cache is None else str(cache), 100).reader()
        return lambda path: read(path, frames_upbound=self.args.frames).frames

    def _fresh(self, way: str, paths: list[str]) -> Path | None:
        """The folder of a way's cache; a warm one holds the clips."""
        if way not in WAYS[2:]:
            return None
        cache = self.folder / f"cache{next(self.numbers)}"
        if way == WAYS[3]:
            read = self._reader(way, cache)
            for path in paths:
                read(path)
        return cache

    def _reads(self, way: str, paths: list[str]) -> Callable[[], object]:
        cache = self._fresh(way, paths)

        def run() -> None:
            if way == WAYS[2]:
                shutil.rmtree(cache, ignore_errors=True)
            read = self._reader(way, cache)
            for path in paths:
                read(path)

        return run

    def _loads(self, way: str, paths: list[str], workers: int) -> Callable[[], object]:
        from torch import from_numpy
        from torch.utils.data import DataLoader

        cache = self._fresh(way, paths)

        def run() -> None:
            if way == WAYS[2]:
                shutil.rmtree(cache, ignore_errors=True)
            read = self._reader(way, cache)
            clips = Clips(paths, lambda path: from_numpy(read(path)))
            for _ in DataLoader(clips, batch_size=None, num_workers=workers):
                pass

        return run

    def _train(self, base: Path, workers: int, flags: dict[str, Any], theirs: bool) -> dict[str, float]:
        """A short run of LLaVA's train script on the drawn clips, with ego tokens, by our reader or LLaVA's."""
        import json

        from llava_ego2exo.host.hooks.install import substituted
        from llava_ego2exo.host.training import dataset

        turns = [{"from": "human", "value": "<image>\nWhat moves?"}, {"from": "gpt", "value": "A pattern moves."}]
        videos = [Path(path) for path in self._all_drawn()]
        data = self.folder / "train.json"
        data.write_text(json.dumps([{"id": v.stem, "video": v.name, "conversations": turns} for v in videos]))
        values = {
            "model_name_or_path": base, "version": "v1", "data_path": data, "video_folder": videos[0].parent,
            "output_dir": self.folder / f"run{next(self.numbers)}", "ego2exo": True, "num_train_epochs": 1,
            "per_device_train_batch_size": 1, "lora_enable": True, "use_cpu": self.args.device == "cpu",
            "ego2exo_check_saved": False,
            "frames_upbound": self.args.frames, "model_max_length": 4096, "save_strategy": "no", "report_to": "none",
            "dataloader_num_workers": workers, "disable_tqdm": True, "gradient_checkpointing": False,
            "vision_tower_dtype": "float32", **flags,
        }  # fmt: skip
        words = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        with substituted(dataset, give_reader=(lambda _args: None) if theirs else dataset.give_reader):
            return run_training(words)


class Clips:
    """A data set of files.

    Args:
        paths: of them.
        read: what makes an item of one.
    """

    def __init__(self, paths: list[str], read: Callable[[str], Any]) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.read(self.paths[index])


def run_training(words: list[str]) -> dict[str, float]:
    """Median seconds of a step, and the share that the run waited for data; the first step is left out."""
    from accelerate.state import AcceleratorState
    from transformers import TrainerCallback, trainer

    import llava_ego2exo

    waits: list[float] = []
    works: list[float] = []

    class Clock(TrainerCallback):
        """Between the end of a step and the beginning of the next the loop waits for its batch."""

        def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.last = time.perf_counter()

        def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
            now = time.perf_counter()
            waits.append(now - self.last)
            self.last = now

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            now = time.perf_counter()
            works.append(now - self.last)
            self.last = now

    llava_ego2exo.register()
    from llava.train import train as host

    AcceleratorState._reset_state(True)
    kept, sys.argv = sys.argv, ["train", *words]
    trainer.DEFAULT_CALLBACKS.append(Clock)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            host.train()
    finally:
        sys.argv = kept
        trainer.DEFAULT_CALLBACKS.remove(Clock)
    steps = [wait + work for wait, work in zip(waits[1:], works[1:], strict=True)]
    return {"step": statistics.fmean(steps), "waiting": sum(waits[1:]) / sum(steps)}


def draw(path: Path, seconds: int, gap: int) -> None:
    """A pattern that moves over noise, 1280 x 720, h264.

    Args:
        path: the file.
        seconds: its length.
        gap: frames from one keyframe to the next.
    """
    import av
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23", "g": str(gap), "keyint_min": str(gap), "sc_threshold": "0"}
        for number in range(seconds * RATE):
            picture = np.roll(noise, (2 * number, 5 * number), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def lines(found: dict[str, Any]) -> list[str]:
    """What was found as text, the ratios last."""
    about = {key: value for key, value in found.items() if not isinstance(value, dict)}
    text = [f"{key}: {value}" for key, value in about.items()]
    steps = {name: {way: one["step"] for way, one in ways.items()} for name, ways in found["training"].items()}
    named = {**found["reading"], **{f"loader, {name}": ways for name, ways in found["loader"].items()}}
    named |= {f"training step, {name}": ways for name, ways in steps.items()}
    rows = [[name, *(f"{ways[way]:.3f}" for way in WAYS)] for name, ways in named.items()]
    text += ["", "seconds a clip (training: a step of one clip)", *table(["", *WAYS], rows)]
    shares = [[name, *(f"{ways[way]['waiting']:.0%}" for way in WAYS)] for name, ways in found["training"].items()]
    text += ["", "share of a tiny model's training step spent waiting for data", *table(["", *WAYS], shares)]
    ratios = [[name, *(f"{ways[WAYS[0]] / ways[way]:.2f}" for way in WAYS[1:])] for name, ways in named.items()]
    return [*text, "", "times as fast as LLaVA's reader", *table(["", *WAYS[1:]], ratios)]


if __name__ == "__main__":
    raise SystemExit(main())
