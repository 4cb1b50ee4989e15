"""One training step of the real shapes with tensors that have no memory: what it would take of a card."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.losses import distillation_sums
from .live_bytes import LiveBytes
from .parts import Parts, Run, build
from .shapes import Shapes


@dataclass(frozen=True)
class Estimate:
    """Bytes that torch would hold on the card, without what CUDA itself takes.

    Args:
        weights: of each part, adapters and ego tokens included.
        trained: numbers that train.
        gradients: of these.
        optimizer: AdamW's two averages of each.
        peak: the most in a step, all of the above included.
        length: of the language model's input.
    """

    weights: dict[str, int]
    trained: int
    gradients: int
    optimizer: int
    peak: int
    length: int


def estimate(shapes: Shapes, run: Run, block: int = 512) -> Estimate:
    """What a step with AdamW takes, found by running it on tensors without memory.

    The second step is the one that counts: AdamW's averages exist from the first on.

    Args:
        shapes: of the checkpoint.
        run: the user's choices.
        block: see :class:`.live_bytes.LiveBytes`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(block) as live:
        parts = build(shapes, run)
        trained = parts.trained()
        averages = [torch.zeros_like(p) for p in trained for _ in range(2)]
        live.restart()
        length = _step(parts, shapes, run)
        gradients = [p.grad for p in trained]
        spare = [torch.empty_like(p) for p in trained]  # AdamW's roots, of all parameters at once
        most = live.most
    del spare
    return Estimate(
        weights={name: sum(map(_bytes, part.state_dict().values())) for name, part in parts.modules().items()},
        trained=sum(p.numel() for p in trained),
        gradients=sum(map(_bytes, gradients)),
        optimizer=sum(map(_bytes, averages)),
        peak=most,
        length=length,
    )


def _step(parts: Parts, shapes: Shapes, run: Run) -> int:
    """Forward and backward; the length of the language model's input."""
    precision = torch.autocast("cpu", run.dtype) if run.dtype != torch.float32 else contextlib.nullcontext()
    with precision:
        embeds = _inputs(parts, shapes, run)
        hidden = parts.language.model(inputs_embeds=embeds, use_cache=False)[0]
        loss = _loss(parts, hidden, run)
    loss.backward()
    return embeds.shape[1]


def _inputs(parts: Parts, shapes: Shapes, run: Run) -> Tensor:
    """(batch, length, width): text, the video's tokens, its ego tokens, and the answer."""
    size = shapes.tower.image_size
    pixels = torch.empty(run.batch * run.frames, 3, size, size, dtype=run.dtype)
    features, states = _encoded(parts, shapes, run, pixels)
    seen = run.ego is None or run.ego.visual_tokens
    video = _pooled(parts.projector(features if seen else features[:1, :1]), shapes, run, seen)
    ego = [] if parts.ego is None else [_ego_tokens(parts, shapes, run, pixels, states)]
    text = parts.language.get_input_embeddings()(torch.zeros(run.batch, run.prompt + run.answer, dtype=torch.long))
    return torch.cat([text[:, : run.prompt], video, *ego, text[:, run.prompt :]], dim=1)


@torch.no_grad()
def _encoded(parts: Parts, shapes: Shapes, run: Run, pixels: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """What the projector reads, and what the ego tokens read."""
    states = parts.tower(pixels, output_hidden_states=True).hidden_states
    layers = run.ego.layer_indices(shapes.tower.num_hidden_layers) if run.ego else ()
    patches = shapes.side**2
    chosen = states[shapes.llava.get("mm_vision_select_layer", -2)][:, -patches:]
    return chosen, {layer: states[layer + 1][:, -patches:] for layer in layers}


def _ego_tokens(parts: Parts, shapes: Shapes, run: Run, pixels: Tensor, states: dict[int, Tensor]) -> Tensor:
    again = (lambda: _encoded(parts, shapes, run, pixels)[1]) if run.ego.states == "recompute" else None
    return parts.ego(states, [run.frames] * run.batch, again=again)


def _pooled(features: Tensor, shapes: Shapes, run: Run, seen: bool) -> Tensor:
    """(batch, visual tokens, width)."""
    if not seen:
        return features.new_empty(run.batch, 0, features.shape[-1])
    side, count = shapes.side, shapes.visual_tokens(run.frames)
    if shapes.pooled:
        grid = features.unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous()
        features = F.adaptive_avg_pool2d(grid, shapes.pooled_side).flatten(2).transpose(1, 2)
    video = features.reshape(run.batch, -1, features.shape[-1])
    extra = count - video.shape[1]  # LLaVA's tokens at the ends of rows or frames
    return torch.cat([video, video.new_empty(run.batch, extra, video.shape[2])], dim=1) if extra > 0 else video


def _loss(parts: Parts, hidden: Tensor, run: Run) -> Tensor:
    """Ours from the answers' states, LLaVA's from all."""
    head = parts.language.get_output_embeddings()
    if run.ego is not None:
        answers = hidden[:, -run.answer - 1 : -1].flatten(0, 1)
        return distillation_sums(head, answers, torch.zeros(answers.shape[0], dtype=torch.long))[0]
    logits = head(hidden).float()
    shifted = logits[:, :-1].contiguous().flatten(0, 1)
    return F.cross_entropy(shifted, torch.zeros(shifted.shape[0], dtype=torch.long))


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage().nbytes()
