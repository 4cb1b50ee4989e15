"""The demo's base model: a tiny LLaVA that understands ego clips, and of exo clips what is plain there.

It is the teacher as it stands, and what every student starts from. Real ones come from a hub; this one is trained here,
on features that the frozen tower gave once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .cameras import FRAMES, draw
from .loading import load_quietly
from .world import Scene, ego_answers, scene_answers

SHOWN = (0, FRAMES - 1)  # of a clip's frames, those that LLaVA samples with --frames_upbound 2


def turns(pair: tuple[str, str], before: bool = True) -> list[dict[str, str]]:
    """A question and its answer as a conversation of LLaVA's JSON, the clip before the question or behind it."""
    question, answer = pair
    asked = f"<image>\n{question}" if before else f"{question}\n<image>"
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]


def train_base(
    folder: Path, material: dict[str, Sequence[Scene]], template: str, seed: int, steps: int,
    batch: int = 64, rate: float = 3e-3, report: Callable[[int, float], None] | None = None,
) -> None:  # fmt: skip
    """Train the checkpoint in `folder` in place.

    Args:
        folder: an untrained LLaVA checkpoint.
        material: view -> scenes.
        template: name of its conversation template.
        seed: of the batches.
        steps: optimizer steps.
        batch: conversations a step.
        rate: highest learning rate.
        report: called with step and loss now and then.
    """
    from ..host.tutoring import loss

    tokenizer, model, processor, _ = load_quietly(folder)
    rows, features, owners = _prepare(model, tokenizer, processor, material, template, seed)
    parameters = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(rows), (batch,), generator=generator).tolist()
        value = loss(model, [rows[i] for i in chosen], [features[owners[i]] for i in chosen])
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if report is not None and step % 50 == 0:
            report(step, value.item())
    weights = {name: tensor for name, tensor in model.state_dict().items() if "vision_tower" not in name}
    model.save_pretrained(folder, state_dict=weights)


def _prepare(
    model: Any, tokenizer: Any, processor: Any, material: dict[str, Sequence[Scene]], template: str,
    seed: int,
) -> tuple[list[dict[str, Tensor]], list[Tensor], list[int]]:  # fmt: skip
    """Rows, the clips' features, and which clip each row is about."""
    from ..host.tutoring import tower_features, training_rows

    told = {"ego": ego_answers, "exo": scene_answers}
    asked, owners, frames = [], [], []
    for view, scenes in material.items():
        for scene in scenes:
            pairs = told[view](scene)
            asked += pairs
            owners += [len(frames)] * len(pairs)
            frames.append(draw(scene, view)[list(SHOWN)])
    pixels = processor.preprocess(list(np.concatenate(frames)), return_tensors="pt")["pixel_values"]
    features = tower_features(model, pixels).split(len(SHOWN))
    # The clip stands before or behind the question, at random, as in the students' training. A question with its answer
    # is one row a place, whichever clip it is about.
    placed = list(zip(asked, np.random.default_rng(seed).integers(0, 2, len(asked)).astype(bool).tolist(), strict=True))
    different = list(dict.fromkeys(placed))
    made = training_rows(tokenizer, [turns(pair, before) for pair, before in different], template)
    rows = dict(zip(different, made, strict=True))
    return [rows[one] for one in placed], list(features), owners
