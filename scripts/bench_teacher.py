"""What batching and one shared encoding of a clip bring a teacher that answers queries, and what the online KL costs.

    python scripts/bench_teacher.py                       # a tiny model on the CPU
    python scripts/bench_teacher.py --size 7b --frames 32 # on a GPU: real shapes, random weights
    python scripts/bench_teacher.py --model CKPT --template qwen_1_5

`one at a time` answers each query of each clip by itself, as the authors' code does: the clip goes through the vision
tower once for every query. `batched` is what `llava-ego2exo teach` does. Answers are the same, which is checked.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from _bench import add_common, machine, peak_bytes, show, side_by_side, table
from _bench_model import LANGUAGE, batch, checkpoint, material, step, trainer

QUERIES = ("Describe what the person does.", "What happens first, and what then?", "Where are the objects?")


def main() -> int:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", choices=("tiny", *LANGUAGE), default="tiny")
    parser.add_argument("--model", help="a checkpoint in place of one with random weights")
    parser.add_argument("--template", help="LLaVA's conversation template of --model")
    parser.add_argument("--clips", type=int, default=8, help="in a batch (default: 8)")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer (default: 32)")
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        base = Path(args.model) if args.model else base_of(args.size, work)
        found = {"machine": machine(args.device), "size": args.model or args.size, "clips": args.clips,
                 "queries a clip": len(QUERIES), "frames": args.frames, "tokens": args.tokens,
                 "teach": teach(args, base), "kl": kl(args, base, Path(folder))}  # fmt: skip
    show(args, found, lines(found))
    return 0


def base_of(size: str, work: Path) -> Path:
    """A checkpoint with random weights."""
    if size != "tiny":
        return checkpoint(size, work)
    from llava_ego2exo.demo.models import tiny_llava
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    kind = "qwen" if detect() == NEXT else "llama"
    return tiny_llava(work / f"tiny_{kind}", kind)


def teach(args: argparse.Namespace, base: Path) -> dict:
    """Seconds for all answers, batched and one at a time."""
    from llava_ego2exo.host.inference.answerer import load_teacher
    from llava_ego2exo.host.inference.prompts import choose_template

    cuda = args.device.startswith("cuda")
    template = args.template or choose_template(str(base), None)
    teacher = load_teacher(
        str(base), None, 16, "bfloat16" if cuda else "float32", 0 if cuda else None, template=template
    )
    teacher.max_new_tokens, teacher.stops = args.tokens, []  # an answer is as long as it is told to be
    size = teacher.model.get_vision_tower().config.image_size
    clips = [torch.rand(args.frames, 3, size, size) for _ in range(args.clips)]
    ways = {
        "one at a time": lambda: [[teacher.answer([clip], [[query]])[0][0] for query in QUERIES] for clip in clips],
        "one encoding a clip": lambda: [teacher.answer([clip], [QUERIES])[0] for clip in clips],
        "batched": lambda: teacher.answer(clips, [QUERIES] * len(clips)),
    }
    texts = {name: [[said.text for said in clip] for clip in run()] for name, run in ways.items()}
    if not cuda and len({str(text) for text in texts.values()}) > 1:
        raise SystemExit("batched answers differ from those one at a time")
    seconds = side_by_side(ways, args.rounds, args.device)
    return {"seconds": seconds, "ratios": {name: seconds["one at a time"] / value for name, value in seconds.items()}}


def kl(args: argparse.Namespace, base: Path, folder: Path) -> dict:
    """A training step with cross-entropy alone and one with the KL to the model itself."""
    data, flags = material(folder / "material", args.frames, ("video",)), {"frames_upbound": args.frames}
    pairs = data.with_name("pairs.json")
    pairs.write_text(data.read_text().replace('"video": "clip.mp4"', '"video": "clip.mp4", "ego_video": "clip.mp4"'))
    template = {"version": args.template} if args.template else {}
    made = {
        "cross-entropy": trainer(base, data, folder / "ce", ego2exo=True, **flags, **template),
        "with KL": trainer(base, pairs, folder / "kl", ego2exo=True, ego2exo_kd_weight=0.5, **flags, **template),
    }
    ways = {name: partial(step, one, batch(one, (0,))) for name, one in made.items()}
    seconds = side_by_side(ways, args.rounds, args.device)
    peaks = {name: peak_bytes(run, args.device) for name, run in ways.items()}
    return {"seconds": seconds, "peak_bytes": peaks}


def lines(found: dict) -> list[str]:
    """The numbers as text, the ratios in the last columns."""
    keys = ("clips", "queries a clip", "frames", "tokens")
    about = ", ".join([found["size"], *(f"{found[key]} {key}" for key in keys)])
    taught, step_of = found["teach"], found["kl"]
    rows = [[name, f"{value:.3f}", f"{taught['ratios'][name]:.2f}"] for name, value in taught["seconds"].items()]
    first = "cross-entropy"
    steps = [[name, f"{value:.3f}", f"{value / step_of['seconds'][first]:.2f}",
              f"{step_of['peak_bytes'][name] / step_of['peak_bytes'][first]:.2f}"]
             for name, value in step_of["seconds"].items()]  # fmt: skip
    return [f"{found['machine']}; {about}", "", *table(["answers", "seconds", "times as fast"], rows), "",
            *table(["training step", "seconds", "time / cross-entropy", "memory / cross-entropy"], steps)]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
