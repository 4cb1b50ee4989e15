"""Memory plans for several settings of one checkpoint, as a table."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..common.text import markdown_table
from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from .memory import estimate
from .model import RunShape
from .prefill import prefill
from .shapes import Shapes, read_shapes

_GIB, _TERA = 2**30, 1e12


def plan(args: argparse.Namespace, progress: Callable[[str], None]) -> dict[str, Any]:
    """What each wanted setting takes: `model`, `shapes` as text, `card` in GiB or None, and `rows`.

    Sizes are in GiB, with --first-token operations in 10^12.

    Raises:
        Ego2ExoError: a checkpoint whose sizes are not known, or a number out of range.
    """
    if args.card_gb is not None and args.card_gb <= 0:
        raise Ego2ExoError(f"--card-gb {args.card_gb:g}", "a number above 0", "give the card's memory in GiB")
    card = args.card_gb
    if card is None and torch.cuda.is_available():
        card = round(torch.cuda.get_device_properties(0).total_memory / _GIB, 1)
    runs = [_run_shape(args, frames, bits) for bits in args.bits for frames in args.frames_upbound]
    own, rows = _shapes(args), []
    shapes = own if args.pool is None else replace(own, llava={**own.llava, "ego2exo_pool": args.pool})
    if max(shapes.pooled_size) > shapes.side:
        raise Ego2ExoError(f"--pool {args.pool}", f"1x1 to {shapes.side}x{shapes.side}", "give a smaller grid")
    for number, run in enumerate(runs, 1):
        progress(f"{number} of {len(runs)}: {run.bits} bits, {run.frames} frames")
        rows.append(_row(shapes, own, run, card, args))
    found = {"model": args.model, "shapes": shapes.summary(), "card": card, "on_policy": args.on_policy}
    return {**found, "rows": rows}


def plan_text(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """The plan as text with a Markdown table."""
    heads = {"bits": "bits", "frames": "frames", "length": "input tokens", "weights": "weights",
             "trained": "training state", "step": "a step adds", "peak": "peak"}  # fmt: skip
    heads |= {"llava": "LLaVA alone"} if args.beside_llava else {}
    heads |= {"fits": f"fits in {found['card']:g}"} if found["card"] else {}
    if args.first_token:
        heads |= {"prefill": "prefill TFLOP", "tower": "of it tower", "ego": "of it ego tokens"}
        heads |= {"llava_prefill": "LLaVA alone TFLOP"} if args.beside_llava else {}
    on_policy = ", in an on-policy step" if args.on_policy else ""
    table = markdown_table(list(heads.values()), [[_cell(row[key]) for key in heads] for row in found["rows"]])
    return (
        f"{found['model']}: {found['shapes']}\n"
        f"Peak GiB held by torch while training with LoRA{on_policy}:\n\n{table}\n\n"
        "CUDA's own context and its libraries' buffers come on top and are not planned."
    )


def _run_shape(args: argparse.Namespace, frames: int, bits: int) -> RunShape:
    ego = Ego2ExoConfig(
        num_tokens=args.num_tokens, block=args.block, layers=args.layers, visual_tokens=not args.no_visual_tokens,
        states=args.states, mlp=not args.no_mlp,
    )  # fmt: skip
    return RunShape(
        frames=frames, batch=args.batch_size, bits=bits, rank=args.lora_r, prompt=args.prompt_tokens,
        answer=args.answer_tokens, on_policy=args.on_policy, checkpointing=not args.no_gradient_checkpointing, ego=ego,
    )  # fmt: skip


def _shapes(args: argparse.Namespace) -> Shapes:
    from ..host.checkpoint.config import read_config, require_class
    from ..host.checkpoint.files import require_whole_model
    from ..host.hooks.flavour import NEXT, detect

    require_whole_model(args.model, "--model", "to plan for its training, --model {base}")
    config = read_config(args.model)
    require_class(config, args.model)
    if config.get("max_position_embeddings") is None:
        raise Ego2ExoError(f"{args.model} names no sizes", "a checkpoint with a whole model's config.json")
    name, tower = args.vision_tower or config.get("mm_vision_tower"), None
    if args.vision_tower or os.path.isdir(str(name)):
        tower = read_config(str(name))
    return read_shapes(config, tower, detect() == NEXT)


def _row(shapes: Shapes, own: Shapes, run: RunShape, card: float | None, args: argparse.Namespace) -> dict[str, Any]:
    found = estimate(shapes, run)
    sizes = {"weights": found.weights, "trained": found.trained, "peak": found.peak}
    sizes["step"] = found.peak - found.weights - found.trained
    alone = replace(run, ego=None, on_policy=False)
    if args.beside_llava:
        sizes["llava"] = estimate(own, alone).peak
    row = {name: size / _GIB for name, size in sizes.items()}
    if args.first_token:
        counts = prefill(shapes, run)
        operations = {"prefill": counts.total, "tower": counts.tower, "ego": counts.ego}
        operations |= {"llava_prefill": prefill(own, alone).total} if args.beside_llava else {}
        row |= {name: count / _TERA for name, count in operations.items()}
    fits = None if card is None else row["peak"] <= card
    return {"bits": run.bits, "frames": run.frames, "length": found.length, **row, "fits": fits}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
