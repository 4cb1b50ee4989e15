"""What a training step costs with ego tokens, beside LLaVA alone: same batch, same LoRA.

    python scripts/bench_step.py                         # on the CPU: the real models' proportions at an eighth
    python scripts/bench_step.py --size 7b --frames 32   # on a GPU: real shapes, random weights

`tokens alone` is a step with ego tokens and LLaVA's own loss, which asks the language model's head at every position;
`ego2exo` is what `--ego2exo True` does, with the head asked at answers. `ego tokens only` leaves the ordinary visual
tokens out.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from _bench import add_common, machine, peak_bytes, show, side_by_side, table
from _bench_model import LANGUAGE, QUESTION, batch, checkpoint, material, step, trainer, version

BATCHES = {"video": (0,), "image": (1,), "text": (2,)}


def main() -> int:
    """Print seconds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", choices=tuple(LANGUAGE), default="cpu", help="of the language model (default: cpu)")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16, help="of an answer (default: 16)")
    parser.add_argument("--bits", type=int, default=16, choices=(4, 16))
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder), args.work or Path(folder))
    show(args, found, lines(found))
    return 0


def measure(args: argparse.Namespace, folder: Path, work: Path) -> dict:
    """Seconds and peak bytes of each way for each kind of batch."""
    base, data = checkpoint(args.size, work), material(folder / "material", args.frames)
    flags = {"frames_upbound": args.frames, "bits": args.bits}
    trained = {
        "LLaVA": trainer(base, data, folder / "a", **flags, **_llavas_own(base)),
        "ego2exo": trainer(base, data, folder / "b", ego2exo=True, **flags),
        "ego tokens only": trainer(
            base, material(folder / "videos", args.frames, ("video",)), folder / "c", ego2exo=True,
            **{**flags, "ego2exo_visual_tokens": False},
        ),
    }  # fmt: skip
    found = {"machine": machine(args.device), "size": args.size, "frames": args.frames, "bits": args.bits}
    batches = {kind: _batch(args, trained, kind) for kind in BATCHES}
    return {**found, "batches": batches, "answers": _answers(args, trained)}


def _llavas_own(base: Path) -> dict:
    """What a run with ego tokens inherits from its base, and LLaVA alone must be told."""
    import json

    config = json.loads((base / "config.json").read_text())
    # Without the patch tokens' flag LLaVA would cut the vocabulary down to the tokenizer's.
    keys = ("mm_projector_type", "mm_vision_select_layer", "mm_use_im_patch_token")
    keys_of_next = ("mm_patch_merge_type", "mm_spatial_pool_mode", "mm_spatial_pool_stride", "mm_newline_position")
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    known = keys + keys_of_next if detect() == NEXT else keys
    return {"vision_tower": config["mm_vision_tower"], **{key: config[key] for key in known if key in config}}


def _batch(args: argparse.Namespace, trained: dict, kind: str) -> dict:
    ways = {}
    for name, made in trained.items():
        if name != "ego tokens only" or kind == "video":
            ways[name] = partial(_step, made, batch(made, BATCHES[kind]), True)
    ways["tokens alone"] = partial(_step, trained["ego2exo"], batch(trained["ego2exo"], BATCHES[kind]), False)
    seconds = side_by_side(ways, args.rounds, args.device)
    peaks = {name: peak_bytes(run, args.device) for name, run in ways.items()}
    return {"seconds": seconds, "peak_bytes": peaks}


def _answers(args: argparse.Namespace, trained: dict) -> dict:
    """Seconds of a greedy answer to one question about one clip."""
    from llava_ego2exo.host.inference.answerer import Teacher

    ways = {}
    for name, made in trained.items():
        model = made.model.get_base_model()
        loaded = (made.tokenizer, model, model.get_vision_tower().image_processor, None)
        teacher = Teacher(loaded, version(), args.tokens)
        teacher.stops = []  # an answer is as long as it is told to be
        ways[name] = partial(teacher.answer, batch(made, BATCHES["video"])["images"], [[QUESTION]])
    return {"tokens": args.tokens, "seconds": side_by_side(ways, args.rounds, args.device)}


def _step(made: object, inputs: dict, at_answers: bool) -> None:
    made.at_answers = at_answers  # LLaVA's own trainer does not read it
    step(made, inputs)


def lines(found: dict) -> list[str]:
    """The numbers as text, the ratios in the last columns."""
    rows = []
    for kind, part in found["batches"].items():
        seconds, peaks = part["seconds"], part["peak_bytes"]
        for name in seconds:
            rows.append([kind, name, f"{seconds[name]:.3f}", f"{peaks[name] / 2**20:.0f}",
                         f"{seconds[name] / seconds['LLaVA']:.3f}", f"{peaks[name] / peaks['LLaVA']:.3f}"])  # fmt: skip
    heads = ["batch", "step", "seconds", "MiB a step adds", "time / LLaVA", "memory / LLaVA"]
    asked = found["answers"]["seconds"]
    answers = [[name, f"{value:.3f}", f"{value / asked['LLaVA']:.3f}"] for name, value in asked.items()]
    answered = table([f"answer of {found['answers']['tokens']} tokens", "seconds", "time / LLaVA"], answers)
    about = f"{found['size']}, {found['frames']} frames, {found['bits']} bits"
    return [f"{found['machine']}; {about}", "", *table(heads, rows), "", *answered]


if __name__ == "__main__":
    raise SystemExit(main())
