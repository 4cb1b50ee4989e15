"""How long the two modes of `llava-ego2exo eval` take for the same questions about the same clips, side by side.

    python scripts/bench_eval.py                                  # a tiny model with random weights
    python scripts/bench_eval.py --model CKPT --template qwen_1_5 # any checkpoint

Clips are decoded beforehand; each clip has several questions and goes through the vision tower once for all of them. A
model with random weights never ends its reply, so the reply's length is what is set: 2 tokens are a letter and its end.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from _bench import Ways, add_common, dtype_of, machine, show, side_by_side, table

QUESTION = "What does the person hold? The output should be the choice among one of the following choices. Choices are"
OPTIONS = "(A) a red cup (B) a green plate (C) a blue spoon (D) a yellow knife"


def main() -> int:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--model", help="a LLaVA checkpoint (default: a tiny one with random weights)")
    parser.add_argument("--model-base", help="what it was trained from, where it holds no whole model")
    parser.add_argument("--template", help="LLaVA's conversation template")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--questions", type=int, default=4, help="about each clip")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2, 16, 64], help="lengths of replies")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    show(args, found, lines(found))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Median seconds of each mode, all taking turns."""
    from llava_ego2exo.host.inference.option_scoring import Asked, letter_scores

    teacher = loaded(args, folder)
    size = teacher.model.get_vision_tower().config.image_size
    clips = [torch.rand(args.frames, 3, size, size) for _ in range(args.clips)]
    texts = [f"Question {number}: {QUESTION} {OPTIONS}" for number in range(args.questions)]
    asked = [Asked(text, tuple("ABCD")) for text in texts]
    ways: Ways = {"likelihood": lambda: [letter_scores(teacher, [clip], [asked]) for clip in clips]}
    ways |= {f"generate {tokens}": partial(replies, teacher, clips, texts, tokens) for tokens in args.tokens}
    seconds = side_by_side(ways, args.rounds, args.device)
    about = {key: getattr(args, key) for key in ("clips", "questions", "frames")}
    return {"machine": machine(args.device), "model": args.model or "tiny", **about, "seconds": seconds}


def loaded(args: argparse.Namespace, folder: Path) -> object:
    """The model, whose replies are as long as they are told to be."""
    from llava_ego2exo.demo.models import tiny_llava
    from llava_ego2exo.host.inference.answerer import load_teacher
    from llava_ego2exo.host.inference.prompts import choose_template

    path = args.model or str(tiny_llava(folder / "tiny", "llama"))
    template = args.template or ("v1" if args.model is None else choose_template(path, None))
    dtype, rank = str(dtype_of(args)).removeprefix("torch."), 0 if args.device.startswith("cuda") else None
    teacher = load_teacher(path, args.model_base, 16, dtype, rank, template=template)
    teacher.stops = []
    return teacher


def replies(teacher: object, clips: list[torch.Tensor], texts: list[str], tokens: int) -> None:
    """Replies of so many tokens about each clip."""
    teacher.max_new_tokens = tokens
    for clip in clips:
        teacher.answer([clip], [texts])


def lines(found: dict) -> list[str]:
    """The numbers as text, the ratios in the last column."""
    seconds = found["seconds"]
    rows = [[name, f"{value:.3f}", f"{value / seconds['likelihood']:.2f}"] for name, value in seconds.items()]
    about = f"{found['model']}, {found['clips']} clips of {found['frames']} frames, {found['questions']} questions each"
    return [f"{found['machine']}; {about}", "", *table(["mode", "seconds", "times likelihood"], rows)]


if __name__ == "__main__":
    raise SystemExit(main())
