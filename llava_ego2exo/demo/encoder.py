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


def _cells(pixels: Tensor) -> Tensor:
    """Mean colour of each patch's quarters: (N, 3, `INPUT`, `INPUT`) to (N, patches, 12)."""
    quarters = functional.avg_pool2d(pixels, PATCH // 2)
    return functional.unfold(quarters, 2, stride=2).transpose(1, 2)


def _material(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """One frame of each event and view (N, 3, `INPUT`, `INPUT`), and which words belong to it (N, words)."""
    frames, names = [], []
    for scene in scenes:
        for view in VIEWS:
            clip = draw(scene, view)
            for index in range(len(scene.events)):
                frames.append(clip[index * FRAMES // len(scene.events)])
                names.append(words(scene, view, index))
    known = sorted(set().union(*names))
    pixels = _processor().preprocess(frames, return_tensors="pt")["pixel_values"]
    return pixels, torch.tensor([[float(word in named) for word in known] for named in names])


def pretrain(
    scenes: Sequence[Scene], folder: Path, seed: int, steps: int, report: Callable[[int, float], None],
    batch: int = 64, layers: int = LAYERS,
) -> None:  # fmt: skip
    """Train a tower from nothing and save it with its image processor.

    Args:
        scenes: none of those held out for tests.
        folder: where to.
        seed: of weights and batches.
        steps: optimizer steps.
        report: called with step and loss now and then.
        batch: frames a step.
        layers: of the tower.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS,
        image_size=INPUT, patch_size=PATCH, projection_dim=WIDTH, hidden_act="gelu", initializer_factor=1.0,
    )  # fmt: skip
    pixels, targets = _material(scenes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower, reader, painter = CLIPVisionModel(config), WordReader(targets.shape[1]), nn.Linear(WIDTH, 12)
        _sine_positions(tower)
        parameters = [*tower.parameters(), *reader.parameters(), *painter.parameters()]

        def step() -> Tensor:
            chosen = torch.randint(len(pixels), (batch,))
            states = [state[:, 1:] for state in tower(pixels[chosen], output_hidden_states=True).hidden_states]
            logits = reader(functional.layer_norm(states[-1], (WIDTH,)))
            named = functional.binary_cross_entropy_with_logits(logits, targets[chosen], reduction="none").sum(1).mean()
            # Words alone would let patches forget what no word is about. Large towers see far more and keep it.
            return named + functional.mse_loss(painter(states[SELECTED]), _cells(pixels[chosen]))

        fit(parameters, step, steps, 4e-3, 0.3, report, weight_decay=0.01)
    tower.save_pretrained(folder)
    _processor().save_pretrained(folder)


def fit(
    parameters: Sequence[nn.Parameter], loss: Callable[[], Tensor], steps: int, rate: float, warmup: float,
    report: Callable[[int, float], None], **options: Any,
) -> None:  # fmt: skip
    """Train with AdamW (which takes `options`), a one-cycle schedule and clipped gradients.

    `loss` gives that of the next batch; `rate` is the highest learning rate, `warmup` a share of the steps.
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
        if step % 50 == 0:
            report(step, value.item())


@torch.no_grad()
def _sine_positions(tower: nn.Module) -> None:
    """Start positions where neighbours are alike: learning the picture's layout from nothing takes too long."""
    from ..method.position_embedding import position_embedding

    table = tower.vision_model.embeddings.position_embedding.weight  # class token first
    table[1:] = 0.5 * position_embedding(len(table) - 1, WIDTH, table.device)


def _processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": INPUT}, crop_size={"height": INPUT, "width": INPUT},
        image_mean=[0.5] * 3, image_std=[0.25] * 3,
    )  # fmt: skip
