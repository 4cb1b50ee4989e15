"""What a training step costs with ego tokens, beside LLaVA alone and beside what `llava-ego2exo plan` estimates.

    python scripts/bench_step.py                                                  # on the CPU, an eighth of the width
    python scripts/bench_step.py --size 0.5b 7b --frames 8 32 64 --bits 4 16 --work DIR   # on a GPU: real shapes

Every setting is a run of LLaVA's own train script with random weights, batch 1, LoRA and gradient checkpointing, of
which the second step is measured. `ego2exo` is what `--ego2exo True` does; `ego tokens only` leaves the ordinary visual
tokens out; `with KL` adds the divergence from the model itself on the ego view; `plain block` and `encoder block`
(--steps) name what reads the tower. With --states the tower's layers are kept, moved to the host's memory, or computed
again.
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
from _bench_model import LANGUAGE, batch, checkpoint, material, planned, step, trainer

KL = {"ego2exo_kd_weight": 0.5}
STEPS = ("LLaVA", "ego2exo", "ego tokens only", "with KL", "plain block", "encoder block")
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
    parser.add_argument("--steps", nargs="+", default=list(STEPS[:4]), choices=STEPS, help="all are held at once")
    parser.add_argument("--work", type=Path, help="where checkpoints are kept for the next run (default: thrown away)")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(product(args.size, args.bits, args.frames, args.states)):
            rows += measure(args, Path(folder) / str(number), args.work or Path(folder), *case)
    found = {"machine": machine(args.device), "rows": rows}
    heads = ["size", "bits", "frames", "states", "batch", "step", "seconds", "MiB a step adds", "GiB in all",
             "GiB planned", "time / first", "memory / first", "planned / measured"]  # fmt: skip
    show(args, found, [about(found), "", *table(heads, [line(row) for row in rows])])
    return 0


def measure(
    args: argparse.Namespace, folder: Path, work: Path, size: str, bits: int, frames: int, states: str
) -> list[dict[str, Any]]:
    """One setting: seconds, bytes that a step adds, bytes in all and as planned, of each way and kind of batch."""
    base = checkpoint(size, work)
    flags = {"frames_upbound": frames, "bits": bits}
    ego = {**flags, "ego2exo": True, "ego2exo_states": states}
    data, videos = material(folder / "all", frames), material(folder / "videos", frames, ("video",))
    pairs = videos.with_name("pairs.json")
    pairs.write_text(videos.read_text().replace('"video": "clip.mp4"', '"video": "clip.mp4", "ego_video": "clip.mp4"'))
    wanted = {
        "LLaVA": (data, {**flags, **settings_of(base)}), "ego2exo": (data, ego),
        "ego tokens only": (videos, {**ego, "ego2exo_visual_tokens": False}), "with KL": (pairs, {**ego, **KL}),
        "plain block": (data, {**ego, "ego2exo_block": "cross_attention"}),
        "encoder block": (data, {**ego, "ego2exo_block": "encoder"}),
    }  # fmt: skip
    runs = {name: trainer(base, wanted[name][0], folder / name, **wanted[name][1]) for name in args.steps}
    rows: list[dict[str, Any]] = []
    for kind in args.batches:
        inputs = {name: batch(run, (BATCHES[kind],)) for name, run in runs.items()
                  if kind == "video" or name in ("LLaVA", "ego2exo")}  # fmt: skip
        first = next(iter(inputs))
        ways = {name: partial(step, runs[name], given) for name, given in inputs.items()}
        seconds = side_by_side(ways, args.rounds, args.device)
        held = {name: held_bytes(runs[name], given) for name, given in inputs.items()}
        added = {name: peak_bytes(way, args.device) for name, way in ways.items()}
        for name in ways:
            estimated = name == "ego2exo" and kind == "video" and states != "offload"
            plan = planned(base, inputs[name], frames, bits, states) if estimated else None
            rows.append({"size": size, "bits": bits, "frames": frames, "states": states, "batch": kind, "step": name,
                         "seconds": seconds[name], "added": added[name], "peak": held[name] + added[name], "plan": plan,
                         "time ratio": seconds[name] / seconds[first],
                         "memory ratio": added[name] / added[first]})  # fmt: skip
    runs.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows


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
    plan = "-" if row["plan"] is None else f"{row['plan'] / 2**30:.3f}"
    share = "-" if row["plan"] is None else f"{row['plan'] / row['peak']:.3f}"
    return [*(row[key] for key in ("size", "bits", "frames", "states", "batch", "step")), f"{row['seconds']:.3f}",
            f"{row['added'] / 2**20:.0f}", f"{row['peak'] / 2**30:.3f}", plan, f"{row['time ratio']:.3f}",
            f"{row['memory ratio']:.3f}", share]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
