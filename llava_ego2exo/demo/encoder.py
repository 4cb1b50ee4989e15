"""The demo's vision encoder: a small CLIP tower, pretrained on single frames and the words that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .cameras import FRAMES, VIEWS, draw
from .world import Scene, words

WIDTH, LAYERS, HEADS = 64, 4, 4
INPUT, PATCH, SELECTED = 48, 8, -2  # pixels: a frame is shrunk for the tower, which halves its cost


class WordReader(nn.Module):
    """One attention query a word over the tower's patches, and how likely the word belongs to the frame.

    A query a word, as a single one for all words learns a held object far more slowly.

    Args:
        count: number of words.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, WIDTH) * WIDTH**-0.5)
        self.weight = nn.Parameter(torch.randn(count, WIDTH) * WIDTH**-0.5)
        self.bias = nn.Parameter(torch.full((count,), -1.0))

    def forward(self, patches: Tensor) -> Tensor:
        """(frames, patches, `WIDTH`) to logits (frames, words)."""
        attention = (patches @ self.queries.T).softmax(1)  # (frames, patches, words)
        read = attention.transpose(1, 2) @ patches
        return (read * self.weight).sum(-1) + self.bias


def cells(pixels: Tensor) -> Tensor:
    """Mean colour of each patch's quarters: (N, 3, `INPUT`, `INPUT`) to (N, patches, 12)."""
    quarters = functional.avg_pool2d(pixels, PATCH // 2)
    return functional.unfold(quarters, 2, stride=2).transpose(1, 2)


def material(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, list[str]]:
    """One frame of each event and view.

    Returns:
        Frames (N, 3, `INPUT`, `INPUT`) as the tower takes them, targets (N, words) of 0 and 1, and the words.
    """
    frames, names = [], []
    for scene in scenes:
        for view in VIEWS:
            clip = draw(scene, view)
            for index in range(len(scene.events)):
                frames.append(clip[index * FRAMES // len(scene.events)])
                names.append(words(scene, view, index))
    known = sorted(set().union(*names))
    pixels = _processor().preprocess(frames, return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor([[float(word in named) for word in known] for named in names]), known


def pretrain(scenes: Sequence[Scene], folder: Path, seed: int, steps: int, batch: int = 64,
             report: Callable[[int, float], None] | None = None) -> Path:  # fmt: skip
    """Train a tower from nothing and save it with its image processor.

    Args:
        scenes: none of those held out for tests.
        folder: where to.
        seed: of weights and batches.
        steps: optimizer steps.
        batch: frames a step.
        report: called with step and loss now and then.

    Returns:
        `folder`.
    """
    from transformers import CLIPVisionModel

    pixels, targets, known = material(scenes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower, reader, painter = CLIPVisionModel(_config()), WordReader(len(known)), nn.Linear(WIDTH, 12)
        _sine_positions(tower)
        parameters = [*tower.parameters(), *reader.parameters(), *painter.parameters()]

        def step() -> Tensor:
            chosen = torch.randint(len(pixels), (batch,))
            states = [state[:, 1:] for state in tower(pixels[chosen], output_hidden_states=True).hidden_states]
            logits = reader(functional.layer_norm(states[-1], (WIDTH,)))
            named = functional.binary_cross_entropy_with_logits(logits, targets[chosen], reduction="none").sum(1).mean()
            # Words alone would let patches forget what no word is about. Large towers see far more and keep it.
            return named + functional.mse_loss(painter(states[SELECTED]), cells(pixels[chosen]))

        fit(parameters, step, steps, 4e-3, 0.3, report, weight_decay=0.01)
    tower.save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


def fit(
    parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], steps: int, rate: float, warmup: float,
    report: Callable[[int, float], None] | None = None, **options: Any,
) -> None:  # fmt: skip
    """Train with AdamW, a one-cycle schedule and clipped gradients.

    Args:
        parameters: to train.
        loss: of the next batch.
        steps: optimizer steps.
        rate: highest learning rate.
        warmup: share of the steps.
        report: called with step and loss now and then.
        options: of AdamW.
    """
    optimizer = torch.optim.AdamW(parameters, lr=rate, **options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warmup)
    for step in range(steps):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if report is not None and step % 50 == 0:
            report(step, value.item())


def _config() -> object:
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        image_size=INPUT, patch_size=PATCH, projection_dim=WIDTH, hidden_act="gelu", initializer_factor=1.0,
    )  # fmt: skip


@torch.no_grad()
def _sine_positions(tower: nn.Module) -> None:
    """Start positions where neighbours are alike: learning the picture's layout from nothing takes too long."""
    from ..method.ego_tokens import position_embedding

    table = tower.vision_model.embeddings.position_embedding.weight  # class token first
    table[1:] = 0.5 * position_embedding(len(table) - 1, WIDTH, table.device)


def _processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": INPUT}, crop_size={"height": INPUT, "width": INPUT},
        image_mean=[0.5] * 3, image_std=[0.25] * 3,
    )  # fmt: skip
