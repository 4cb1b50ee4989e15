"""How long the two modes of `llava-ego2exo eval` take for the same questions about the same clips, side by side.

    python scripts/bench_eval.py                                  # a tiny model with random weights
    python scripts/bench_eval.py --model CKPT --template qwen_1_5 # any checkpoint

Clips are decoded beforehand; each clip has several questions and goes through the vision tower once for all of them. A
model with random weights never ends its reply, so the reply's length is what is set: 2 tokens are a letter and its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

QUESTION = "What does the person hold? The output should be the choice among one of the following choices. Choices are"
OPTIONS = "(A) a red cup (B) a green plate (C) a blue spoon (D) a yellow knife"


def main() -> int:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a LLaVA checkpoint (default: a tiny one with random weights)")
    parser.add_argument("--model-base", help="what it was trained from, where it holds no whole model")
    parser.add_argument("--template", help="LLaVA's conversation template")
    parser.add_argument("--dtype", help="of the weights (default: bfloat16 on a GPU, else float32)")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--questions", type=int, default=4, help="about each clip")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2, 16, 64], help="lengths of replies")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print(json.dumps(found, indent=1) if args.json else table(found))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Median seconds of each mode, rounds of all taking turns."""
    from llava_ego2exo.host.letters import Asked, letter_scores
    from llava_ego2exo.host.teacher import load_teacher

    path, template = args.model or tiny(folder), args.template or ("v1" if args.model is None else None)
    if template is None:
        from llava_ego2exo.host.templates import choose_template

        template = choose_template(path, None)
    dtype = args.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    teacher = load_teacher(
        path, args.model_base, 16, dtype, 0 if torch.cuda.is_available() else None, template=template
    )
    teacher.stops = []  # a reply is as long as it is told to be
    size = teacher.model.get_vision_tower().config.image_size
    clips = [torch.rand(args.frames, 3, size, size) for _ in range(args.clips)]
    texts = [f"Question {number}: {QUESTION} {OPTIONS}" for number in range(args.questions)]
    asked = [Asked(text, tuple("ABCD")) for text in texts]
    ways: dict[str, Callable[[], object]] = {
        "likelihood": lambda: [letter_scores(teacher, [clip], [asked]) for clip in clips]
    }
    for tokens in args.tokens:
        ways[f"generate {tokens}"] = lambda tokens=tokens: [reply(teacher, clip, texts, tokens) for clip in clips]
    seconds = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, run in ways.items():
            passed = timed(run)
            if number:  # the first round warms up
                seconds[name].append(passed)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: value / middle["likelihood"] for name, value in middle.items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} thread(s)"
    about = {
        "clips": args.clips,
        "questions a clip": args.questions,
        "frames": args.frames,
        "model": args.model or "tiny",
    }
    return {"device": device, **about, "seconds": middle, "times the seconds of likelihood": ratios}


def reply(teacher: object, clip: torch.Tensor, texts: list[str], tokens: int) -> object:
    """Replies of so many tokens."""
    teacher.max_new_tokens = tokens
    return teacher.answer([clip], [texts])


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call, the GPU's work included."""
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def tiny(folder: Path) -> str:
    """A tiny LLaVA with random weights."""
    from llava_ego2exo.demo.tiny import tiny_llava

    return str(tiny_llava(folder / "tiny", "llama"))


def table(found: dict) -> str:
    """The numbers as text, the ratios last."""
    ratios = found["times the seconds of likelihood"]
    lines = [f"{name}: {value}" for name, value in found.items() if not isinstance(value, dict)]
    lines += [f"{'mode':<14}{'seconds':>9}{'times likelihood':>18}"]
    return "\n".join(
        [*lines, *(f"{name:<14}{value:>9.3f}{ratios[name]:>18.2f}" for name, value in found["seconds"].items())]
    )


if __name__ == "__main__":
    raise SystemExit(main())
