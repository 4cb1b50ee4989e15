"""How long answers take: batched or one by one, generated or as the likeliest option, side by side.

    python scripts/bench_answers.py                       # a tiny model on the CPU
    python scripts/bench_answers.py --size 7b --frames 32 # on a GPU: real shapes, random weights
    python scripts/bench_answers.py --model CKPT --template qwen_1_5

`one at a time` answers each question about each clip by itself, as the authors' code does: the clip goes through the
vision tower once for every question. `batched` is what `llava-ego2exo teach` and `eval` do; answers are the same, which
is checked. `likelihood` is the mode of `eval` that compares option letters. A model with random weights never ends its
answer, so its length is what is set: 2 tokens are a letter and its end.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _bench import Ways, about, add_common, dtype_of, machine, show, side_by_side, table
from _bench_model import LANGUAGE, checkpoint

QUESTION = "What does the person hold? The output should be the choice among one of the following choices. Choices are"
OPTIONS = "(A) a red cup (B) a green plate (C) a blue spoon (D) a yellow knife"


def main() -> int:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", choices=("tiny", *LANGUAGE), default="tiny")
    parser.add_argument("--model", help="a checkpoint in place of one with random weights")
    parser.add_argument("--model-base", help="what it was trained from, where it holds no whole model")
    parser.add_argument("--template", help="LLaVA's conversation template")
    parser.add_argument("--clips", type=int, default=8, help="in a batch (default: 8)")
    parser.add_argument("--questions", type=int, default=3, help="about each clip (default: 3)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 2], help="lengths of answers (default: 32 2)")
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(args, args.work or Path(folder))
    settings = {key: getattr(args, key) for key in ("clips", "questions", "frames")}
    found = {"machine": machine(args.device), "model": args.model or args.size, **settings, "seconds": seconds}
    first = next(iter(seconds.values()))
    rows = [[name, f"{value:.3f}", f"{first / value:.2f}"] for name, value in seconds.items()]
    show(args, found, [about(found), "", *table(["answers", "seconds", "times as fast"], rows)])
    return 0


def measure(args: argparse.Namespace, work: Path) -> dict[str, float]:
    """Median seconds for the answers to all questions, all ways taking turns."""
    from llava_ego2exo.host.inference.option_scoring import MultipleChoiceQuestion, letter_scores

    answerer = loaded(args, work)
    size = answerer.model.get_vision_tower().config.image_size
    clips = [torch.rand(args.frames, 3, size, size) for _ in range(args.clips)]
    texts = [f"Question {number}: {QUESTION} {OPTIONS}" for number in range(args.questions)]
    choices = [MultipleChoiceQuestion(text, tuple("ABCD")) for text in texts]

    def answers(tokens: int, batches: list[list[torch.Tensor]], asked: list[list[str]]) -> list[str]:
        answerer.max_new_tokens = tokens
        said = [answerer.answer(batch, [part] * len(batch)) for batch in batches for part in asked]
        return sorted(answer.text for batch in said for clip in batch for answer in clip)

    alone, together, longest = [[clip] for clip in clips], [clips], args.tokens[0]
    ways: Ways = {
        f"one at a time, {longest} tokens": partial(answers, longest, alone, [[text] for text in texts]),
        f"one encoding a clip, {longest} tokens": partial(answers, longest, alone, [texts]),
        **{f"batched, {tokens} tokens": partial(answers, tokens, together, [texts]) for tokens in args.tokens},
        "likelihood": lambda: letter_scores(answerer, clips, [choices] * len(clips)),
    }
    same = [run() for name, run in ways.items() if name.endswith(f", {longest} tokens")]
    if not args.device.startswith("cuda") and same[0] != same[-1]:
        raise SystemExit("batched answers differ from those one at a time")
    return side_by_side(ways, args.rounds, args.device)


def loaded(args: argparse.Namespace, work: Path) -> Any:
    """The model, whose answers do not end before their longest."""
    from llava_ego2exo.host.inference.answerer import load_answerer
    from llava_ego2exo.host.inference.settings import InferenceOptions, resolve_inference_settings

    path = args.model or str(random_weights(args.size, work))
    dtype = str(dtype_of(args)).removeprefix("torch.")
    template = args.template or (None if args.model or "qwen" in Path(path).name else "v1")
    settings = resolve_inference_settings(path, args.model_base, InferenceOptions(template=template, dtype=dtype))
    answerer = load_answerer(path, args.model_base, settings, 0 if args.device.startswith("cuda") else None)
    answerer.stops = []
    return answerer


def random_weights(size: str, work: Path) -> Path:
    """A checkpoint that nothing was trained into."""
    if size != "tiny":
        return checkpoint(size, work)
    from llava_ego2exo.demo.models import tiny_llava
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    kind = "qwen" if detect() == NEXT else "llama"
    return tiny_llava(work / f"tiny_{kind}", kind)


if __name__ == "__main__":
    raise SystemExit(main())
