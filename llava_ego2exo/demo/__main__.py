"""The main job at toy size: ``python -m llava_ego2exo.demo [--videos DIR] [--data JSON] [--out DIR]``.

A tiny LLaVA video model with random weights is trained with ``--ego2exo True`` until it knows a few videos by heart,
loaded by LLaVA's own loader, and asked about each of them; so are the untouched base and the merged student.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import Ego2ExoError
from .material import Item, Material, from_json, from_videos, rendered
from .training import train

SHOWN = 60


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo: 0 when the student gives an expected answer, else 1."""
    args = parse(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        if args.out is None:
            with tempfile.TemporaryDirectory(prefix="ego2exo_demo_") as folder:
                _say(f"everything goes to {folder} and is removed at the end (--out DIR keeps it)")
                return run(Path(folder), args)
        out = new_folder(args.out)
        _say(f"everything is kept in {out}")
        return run(out, args)
    except Ego2ExoError as error:
        print(f"llava_ego2exo.demo: error: {error}", file=sys.stderr)  # noqa: T201
        return 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The demo's own flags."""
    parser = argparse.ArgumentParser(prog="python -m llava_ego2exo.demo", description=__doc__.split("\n\n")[1])
    parser.add_argument("--videos", metavar="DIR", help="your videos; left out: the demo draws some")
    parser.add_argument("--data", metavar="JSON", help="a LLaVA training JSON about them; left out: names are learned")
    parser.add_argument("--limit", type=int, default=8, help="at most this many of your videos (default: 8)")
    parser.add_argument("--epochs", type=int, default=60, help="how often each sample is seen (default: 60)")
    parser.add_argument("--out", metavar="DIR", help="a new or empty folder that keeps everything")
    args = parser.parse_args(argv)
    if args.data and not args.videos:
        parser.error("--data needs --videos, the folder that its videos lie in")
    if args.limit < 1 or args.epochs < 1:
        parser.error("--limit and --epochs are whole numbers from 1")
    return args


def new_folder(path: str) -> Path:
    """The folder as an absolute path, made where it is not there.

    Raises:
        Ego2ExoError: it holds something.
    """
    folder = Path(path).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Ego2ExoError(f"--out {path} exists and is not empty", "a new or empty folder", "choose another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(out: Path, args: argparse.Namespace) -> int:
    """Material, training, merging, asking.

    Args:
        out: folder for everything.
        args: of :func:`parse`.
    """
    from ..host.flavour import NEXT, detect
    from ..merge import merge
    from .tiny import tiny_llava

    material = choose(out, args)
    kind = "qwen" if detect() == NEXT else "llama"
    base = tiny_llava(out / f"base_{kind}", kind)
    _say(f"a tiny LLaVA with random weights: {base}")
    student = train(out, base, kind, material, args.epochs)
    with _quietly():
        merged = merge(str(student), str(base), str(out / "merged"))
    _say(f"merged into one directory: llava-ego2exo merge {student} --base {base} --out {merged}")
    places = {"student": (student, base), "merged": (merged, None), "base": (base, None)}
    answers = {name: ask_all(*place, kind, material.items) for name, place in places.items()}
    return report(material.items, answers)


def choose(out: Path, args: argparse.Namespace) -> Material:
    """What to train on: drawn videos, the user's, or the user's with their own JSON."""
    if args.videos is None:
        return rendered(out / "videos")
    folder = Path(args.videos).absolute()
    if not folder.is_dir():
        raise Ego2ExoError(f"--videos {args.videos} is no folder", "a folder of video files")
    if args.data:
        return from_json(folder, Path(args.data).absolute())
    material, left_out = from_videos(folder, out / "train.json", args.limit)
    for reason in left_out:
        _say(f"left out: {reason}")
    if left_out:
        _say(f"{len(left_out)} file(s) left out, {len(material.items)} taken")
    return material


def ask_all(path: Path, base: Path | None, kind: str, items: list[Item]) -> list[str]:
    """Answers of one checkpoint to every item's question."""
    from ..host.asking import load
    from .ask import ask
    from .training import DTYPE, FRAMES, TEMPLATES

    with _quietly():
        loaded = load(str(path), base and str(base), torch_dtype=DTYPE)
    return [ask(loaded, item.video, item.question, TEMPLATES[kind], frames_upbound=FRAMES) for item in items]


def report(items: list[Item], answers: dict[str, list[str]]) -> int:
    """Print question and answers of every item, and how many are as trained.

    Returns:
        The exit code: 1 where none of the student's or none of the merged model's answers is the expected one.
    """
    for index, item in enumerate(items):
        _say(f"\n{item.video}\n  question  {item.question}\n  expected  {item.answer}")
        for name, given in answers.items():
            _say(f"  {name:<8}  {short(given[index])}")
    expected = [item.answer for item in items]
    right = {name: sum(map(str.__eq__, given, expected)) for name, given in answers.items()}
    _say("\nas expected: " + ", ".join(f"{name} {count} of {len(items)}" for name, count in right.items()))
    return 0 if right["student"] and right["merged"] else 1


def short(answer: str) -> str:
    """One printable line of an answer; a random model's is noise."""
    line = "".join(c if c.isprintable() else " " for c in answer)
    return line if len(line) <= SHOWN else line[:SHOWN] + " ..."


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what LLaVA prints and warns of while it loads; errors come through."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
