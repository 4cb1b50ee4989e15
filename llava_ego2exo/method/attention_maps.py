"""Attention maps of the ego tokens: their weights over all patches of a video's frames, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from einops import rearrange
from torch import Tensor

from .attention import CrossAttention, KeyEmbedding
from .ego_tokens import EgoAdaptiveTokens
from .encoder_block import TowerLayer


def attention_weights(
    module: CrossAttention,
    tokens: Tensor,
    states: Tensor,
    lengths: list[int],
    key_embedding: KeyEmbedding | None = None,
) -> list[Tensor]:
    """The softmax inside one cross-attention, which none of its paths keeps; arguments as of its `forward`.

    Returns:
        A video: (H, P, frames, patches), float32; sums to 1 over frames and patches together.
    """
    extra = key_embedding or KeyEmbedding()
    queries = rearrange(module.q(tokens), "v p (h d) -> v h p d", h=module.num_heads)
    folded = module.k(queries * queries.shape[-1] ** -0.5, fold="queries")  # (V, H, P, D): scores without keys
    videos = states.to(folded.dtype).split(lengths)
    return [_softmax(query, frames, extra, i) for i, (query, frames) in enumerate(zip(folded, videos, strict=True))]


def _softmax(query: Tensor, frames: Tensor, extra: KeyEmbedding, video: int) -> Tensor:
    scores = torch.einsum("hpd,fnd->hpfn", query, frames)
    if extra.frame is not None:
        scores = scores + torch.einsum("hpd,fd->hpf", query, extra.frame[: frames.shape[0]])[..., None]
    if extra.position is not None:
        scores = scores + torch.einsum("hpd,nd->hpn", query, extra.position)[:, :, None]
    if extra.scores is not None:
        scores = scores + extra.scores[video].to(scores.dtype)[..., None]
    return scores.flatten(2).softmax(-1, dtype=torch.float32).view_as(scores)


@contextmanager
def recorded(reader: EgoAdaptiveTokens, per_head: bool = False) -> Iterator[list[list[Tensor]]]:
    """Keep the weights of the one run that `reader` does inside the block: for each layer in turn, a tensor a video.

    The hooks sit on each layer's attention, so its tokens are those that the layers before it made. The run itself
    is untouched, whichever way it computes attention.
    """
    layers: list[list[Tensor]] = []

    @torch.no_grad()
    def keep(module: CrossAttention, args: tuple[Tensor, Tensor, list[int], KeyEmbedding]) -> None:
        weights = attention_weights(module, *args)
        layers.append(weights if per_head else [video.mean(0) for video in weights])

    with ExitStack() as stack:
        for module in reader.blocks.modules():
            if isinstance(module, CrossAttention):
                stack.callback(module.register_forward_pre_hook(keep).remove)
        yield layers


@torch.no_grad()
def attention_maps(
    reader: EgoAdaptiveTokens,
    hidden_states: Mapping[int, Tensor] | Sequence[Tensor],
    lengths: list[int],
    per_head: bool = False,
    tower: Sequence[TowerLayer] | None = None,
) -> list[Tensor]:
    """How much of its attention each token gives to each patch, in every chosen layer (paper section 3.2).

    `hidden_states`, `lengths` and `tower` are as :meth:`.ego_tokens.EgoAdaptiveTokens.forward` takes them; with
    `per_head` heads are kept apart instead of averaged over.

    Returns:
        A video: (layers, P, frames, patches), float32, the chosen layers in ascending order; with `per_head`
        (layers, H, P, frames, patches). Sums to 1 over frames and patches together.

    Raises:
        Ego2ExoError: states and lengths do not fit the tokens.
    """
    with recorded(reader, per_head) as layers:
        reader(hidden_states, lengths, tower=tower)
    return [torch.stack(video) for video in zip(*layers, strict=True)] if lengths else []
