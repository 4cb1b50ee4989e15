"""Ego tokens as guests of the frozen encoder: its own layer norms and MLPs, trainable copies of its attention.

A token starts at a place, the average of the encoder's input over a cell of space and time, and is carried through the
layers as a patch would be, except that no patch attends to it and that it attends to patches of all frames.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ..errors import Ego2ExoError
from .attention import CrossAttention, KeyEmbedding, compute_dtype

# Names of a layer's parts, in the order of `TowerLayer`, and parts of an MLP whose names say only what follows.
_CLIP = ("layer_norm1", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "layer_norm2", "mlp")
_QKV = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
_VIT = ("layernorm_before", *_QKV, "attention.output.dense", "layernorm_after", "intermediate", "output.dense")


class TowerLayer(NamedTuple):
    """One layer of a vision encoder, by reference: x += out(attention of ln_attn(x)), then x += mlp(ln_mlp(x))."""

    ln_attn: nn.Module
    q: nn.Module
    k: nn.Module
    v: nn.Module
    out: nn.Module
    ln_mlp: nn.Module
    mlp: nn.Module


def tower_layer(layer: nn.Module) -> TowerLayer:
    """The parts of one layer named as in CLIP, SigLIP and MLCD, or as in transformers' ViT.

    Raises:
        Ego2ExoError: it has other parts, which the tokens would skip.
    """
    owners = [name.rpartition(".")[0] or name for name, _ in layer.named_parameters()]  # the modules that hold weights
    others = [
        sorted({name for name in owners if not any(f"{name}.".startswith(f"{part}.") for part in parts)})
        for parts in (_CLIP, _VIT)
    ]
    if all(others):
        raise Ego2ExoError(
            f"the vision tower's layers have {', '.join(min(others, key=len))}",
            "for --ego2exo_block and --ego2exo_init encoder: attention, two layer norms, an MLP, as in CLIP, SigLIP, "
            "MLCD and ViT",
            "use --ego2exo_block cross_attention or transformer with --ego2exo_init random, which read any tower",
        )
    if not others[0]:
        return TowerLayer(*(layer.get_submodule(name) for name in _CLIP))
    *parts, inner, outer = (layer.get_submodule(name) for name in _VIT)
    return TowerLayer(*parts, nn.Sequential(inner, outer))


def _run(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`module` in `dtype` where `x` is, whatever the type of its weights, which are left alone and get no gradient.

    Of a trained encoder neither: used inside and outside its own checkpointed forward, a weight's gradient would be
    complete twice, which distributed training refuses. Such an encoder learns through the states.
    """
    weights = dict(module.named_parameters())
    if all((w.dtype, w.device, w.requires_grad) == (dtype, x.device, False) for w in weights.values()):
        return module(x.to(dtype))  # type: ignore[no-any-return]

    def cast(x: Tensor) -> Tensor:
        own = {name: weight.detach().to(x.device, dtype) for name, weight in weights.items()}
        return functional_call(module, own, (x,))

    # The cast weights are made again in backward: kept, they would be a second encoder.
    return checkpoint(cast, x.to(dtype), use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]


def normed_states(layer: TowerLayer, states: Tensor) -> Tensor:
    """LN1 of what enters an encoder layer, in its own dtype; without a graph where the encoder is frozen."""
    # Autocast would make every layer's states float32.
    with torch.set_grad_enabled(states.requires_grad), torch.autocast(states.device.type, enabled=False):
        return _run(layer.ln_attn, states, states.dtype)


class EncoderBlock(nn.Module):
    """One encoder layer from a token's side: trainable attention, and the encoder's own norms and MLP.

    Args:
        width: D, the encoder's.
        num_heads: the encoder's.
        attn: how attention is computed, see :func:`.attention.resolve`.
        mlp: whether the tokens pass the layer's MLP too.
    """

    def __init__(self, width: int, num_heads: int, attn: str = "auto", mlp: bool = True) -> None:
        super().__init__()
        self.attn = CrossAttention(width, num_heads, attn)
        self.mlp = mlp

    def forward(
        self,
        tokens: Tensor,
        states: Tensor,
        lengths: list[int],
        key_embedding: KeyEmbedding | None = None,
        layer: TowerLayer | None = None,
    ) -> Tensor:
        """As :meth:`.attention.CrossAttention.forward`, with `states` of :func:`normed_states`.

        `layer` may be missing where there are no videos.
        """
        if layer is None:
            return tokens + self.attn(tokens, states, lengths, key_embedding)
        tokens = tokens + self.attn(_run(layer.ln_attn, tokens, tokens.dtype), states, lengths, key_embedding)
        if not self.mlp:
            return tokens
        inner = _run(layer.ln_mlp, tokens, tokens.dtype)
        return tokens + _run(layer.mlp, inner, compute_dtype(inner)).to(tokens.dtype)


def anchors(states: Tensor, lengths: list[int], grid: tuple[int, int, int]) -> Tensor:
    """Averages over the cells of a grid, of each video by itself.

    Cells are those of adaptive average pooling: they overlap where frames, rows or columns do not divide evenly or
    are fewer than the grid's.

    Args:
        states: (sum of lengths, patches, D), the patches of a square picture row by row.
        lengths: frames of each of the V videos.
        grid: cells in time, rows and columns: (t, r, c).

    Returns:
        (V, t * r * c, D), float32, in the order time, row, column.
    """
    side = isqrt(states.shape[1])
    if side * side != states.shape[1]:
        raise Ego2ExoError(f"{states.shape[1]} patches a frame with a grid", "a square number", "use no grid")
    found = []
    for video in states.split(lengths):
        picture = video.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        cells = F.adaptive_avg_pool2d(picture, grid[1:]).flatten(1)  # (frames, D * r * c)
        cells = F.adaptive_avg_pool1d(cells.T[None], grid[0])[0].T.unflatten(1, (-1, grid[1] * grid[2]))
        found.append(cells.transpose(1, 2).flatten(0, 1))
    return torch.stack(found)


def time_scores(centre: Tensor, sharpness: Tensor, frames: int) -> Tensor:
    """What each token's scores get for a frame's place in its video, 0 at the token's own: (P, frames).

    Args:
        centre, sharpness: (P,) float32, in videos and in one over videos.
    """
    times = (torch.arange(frames, device=centre.device) + 0.5) / frames
    return -((times - centre[:, None]) * sharpness[:, None]).square()
