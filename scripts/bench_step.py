"""What a training step and an answer's first token cost with ego tokens, beside LLaVA alone.

    python scripts/bench_step.py                                                  # on the CPU, an eighth of the width
    python scripts/bench_step.py --size 7b --frames 32 --bits 4 --work DIR        # on a GPU: real shapes

Every step is a run of LLaVA's own train script with random weights, batch 1, LoRA and gradient checkpointing, of which
the second step is measured, beside what `llava-ego2exo plan` estimates of it. `plain block` is the paper's
cross-attention and `encoder block` the one whose tokens pass through the encoder; `alone` leaves the ordinary visual
tokens out, `pooled` leaves four of them a frame; `with KL` adds the divergence from the model itself on the ego view,
`on-policy` of an answer that the student samples, as long as the other.
The first token is that of an answer to one question, from the frames' pixels on, by the same model with LoRA merged.
With --states the tower's layers are kept, moved to the host's memory, or computed again.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from _bench import about, add_common, machine, peak_bytes, show, side_by_side, table
from _bench_model import ANSWER, LANGUAGE, QUESTION, batch, checkpoint, material, planned, step, trainer, version

ENCODER = {"ego2exo": True, "ego2exo_block": "encoder"}
POOLED = {"ego2exo_pool": "2x2"}
STEPS: dict[str, dict[str, Any]] = {
    "LLaVA": {}, "LLaVA pooled": POOLED, "plain block": {"ego2exo": True, "ego2exo_block": "cross_attention"},
    "encoder block": ENCODER, "encoder block, no MLPs": {**ENCODER, "ego2exo_mlp": False},
    "encoder block, pooled": {**ENCODER, **POOLED}, "encoder block alone": {**ENCODER, "ego2exo_visual_tokens": False},
    "encoder block with KL": {**ENCODER, "ego2exo_kd_weight": 0.5},
    "encoder block with KL on-policy": {**ENCODER, "ego2exo_kd_weight": 0.5, "ego2exo_on_policy": 1.0},
}  # fmt: skip
BATCHES = {"video": 0, "image": 1, "text": 2}


def main() -> int:
    """Print seconds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--size", nargs="+", choices=tuple(LANGUAGE), default=["cpu"], help="of the language model")
    parser.add_argument("--frames", type=int, nargs="+", default=[4])
    parser.add_argument("--bits", type=int, nargs="+", default=[16], choices=(4, 16))
    parser.add_argument("--states", nargs="+", default=["keep"], choices=("keep", "offload", "recompute"))
    parser.add_argument("--batches", nargs="+", default=["video"], choices=tuple(BATCHES))
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS, help="all are held at once")
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(product(args.size, args.bits, args.frames, args.states)):
            rows += measure(args, Path(folder) / str(number), args.work or Path(folder), *case)
    found = {"machine": machine(args.device), "rows": rows}
    heads = ["size", "bits", "frames", "states", "batch", "step", "seconds", "MiB a step adds", "GiB in all",
             "GiB planned", "planned / measured", "s to first token", "time / first", "memory / first",
             "first token / first"]  # fmt: skip
    show(args, found, [about(found), "", *table(heads, [line(row) for row in rows])])
    return 0


def measure(
    args: argparse.Namespace, folder: Path, work: Path, size: str, bits: int, frames: int, states: str
) -> list[dict[str, Any]]:
    """One setting: seconds, bytes that a step adds, bytes in all and as planned, of each way and kind of batch."""
    from llava_ego2exo.host.checkpoint.config import read_tokenizer

    base = checkpoint(size, work)
    data, videos = material(folder / "all", frames), material(folder / "videos", frames, ("video",))
    pairs = videos.with_name("pairs.json")
    pairs.write_text(videos.read_text().replace('"video": "clip.mp4"', '"video": "clip.mp4", "ego_video": "clip.mp4"'))
    runs = {}
    for name in args.steps:
        own = STEPS[name]
        own = {**own, "ego2exo_states": states} if own.get("ego2exo") else {**own, **settings_of(base)}
        if "ego2exo_on_policy" in own:  # a model with random weights does not end its answer
            tokenizer = read_tokenizer(str(base))
            own["ego2exo_sample_tokens"] = len(tokenizer(ANSWER, add_special_tokens=False).input_ids) + 1
        file = pairs if "KL" in name else videos if "alone" in name else data
        runs[name] = trainer(base, file, folder / name, frames_upbound=frames, bits=bits, **own)
    rows: list[dict[str, Any]] = []
    for kind in args.batches:
        whole = [name for name in runs if "KL" not in name and not name.endswith("alone")]
        inputs = {name: batch(runs[name], (BATCHES[kind],)) for name in (runs if kind == "video" else whole)}
        ways = {name: partial(step, runs[name], given) for name, given in inputs.items()}
        seconds = side_by_side(ways, args.rounds, args.device)
        held = {name: held_bytes(runs[name], given) for name, given in inputs.items()}
        added = {name: peak_bytes(way, args.device) for name, way in ways.items()}
        for name in ways:
            estimated = "KL" not in name and kind == "video" and states != "offload"
            plan = planned(base, inputs[name], frames, bits, {**STEPS[name], "ego2exo_states": states})
            rows.append({"size": size, "bits": bits, "frames": frames, "states": states, "batch": kind, "step": name,
                         "seconds": seconds[name], "added": added[name], "peak": held[name] + added[name],
                         "plan": plan if estimated else None})  # fmt: skip
    answers = {name: partial(first_token, run, batch(run, (0,))["images"][0]) for name, run in runs.items()}
    for run in runs.values():
        run.model.merge_adapter()
    latency = side_by_side(answers, args.rounds, args.device)
    for row in rows:
        row["first token"] = latency[row["step"]] if row["batch"] == "video" else None
        first = next(other for other in rows if other["batch"] == row["batch"])
        for key, name in (("seconds", "time"), ("added", "memory"), ("first token", "first token")):
            row[f"{name} ratio"] = row[key] and row[key] / first[key]
    runs.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows


def first_token(run: Any, clip: torch.Tensor) -> None:
    """Answer a question about a preprocessed clip, by one token."""
    from llava_ego2exo.host.inference.answerer import Answerer
    from llava_ego2exo.host.model.answer_tokens import llava_model

    answerer = Answerer((run.tokenizer, llava_model(run.model), None, 0), version(), max_new_tokens=1)
    with run.accelerator.autocast():
        (found,) = answerer.answer([clip], [[QUESTION]])
    if isinstance(found, Exception):
        raise found


def settings_of(base: Path) -> dict[str, Any]:
    """What a run with ego tokens inherits from its base, and LLaVA alone has to be given."""
    from llava_ego2exo.host.hooks.flavour import NEXT, detect

    config = json.loads((base / "config.json").read_text())
    # Without the patch tokens' flag LLaVA would cut the vocabulary down to the tokenizer's.
    keys = ["mm_projector_type", "mm_vision_select_layer", "mm_use_im_patch_token"]
    if detect() == NEXT:
        keys += ["mm_patch_merge_type", "mm_spatial_pool_mode", "mm_spatial_pool_stride", "mm_newline_position"]
    return {"vision_tower": config["mm_vision_tower"], **{key: config[key] for key in keys if key in config}}


def held_bytes(run: Any, inputs: dict[str, Any]) -> int:
    """Bytes of weights, optimizer and inputs before a step."""
    from llava_ego2exo.planning import memory

    images = inputs.get("images")  # a list on LLaVA-NeXT, a tensor on llava-torch
    inputs_held = 0 if images is None else sum(image.nbytes for image in images)
    return memory.held_bytes(run.model, run.optimizer) + inputs_held


def line(row: dict[str, Any]) -> list[object]:
    """A row as text."""

    def text(value: float | None, digits: int = 3) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    plan = row["plan"]
    return [
        *(row[key] for key in ("size", "bits", "frames", "states", "batch", "step")), text(row["seconds"]),
        text(row["added"] / 2**20, 0), text(row["peak"] / 2**30), text(plan and plan / 2**30),
        text(plan and plan / row["peak"]), text(row["first token"]),
        *(text(row[f"{name} ratio"]) for name in ("time", "memory", "first token")),
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
