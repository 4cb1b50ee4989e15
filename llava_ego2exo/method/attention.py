"""Cross-attention of a few learnable tokens over all patches of a video's frames (paper section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..errors import Ego2ExoError
from .folded_attention import kept, lean

_FLASH_HEAD_WIDTH = 256  # the widest head that flash-attn's kernels take


class KeyEmbedding(NamedTuple):
    """What is added to the keys (never to the values), in units of the states, and to scores; None adds nothing."""

    frame: Tensor | None = None  # (max_frames, D), row t for a video's frame t
    position: Tensor | None = None  # (patches, D), row j for a frame's patch j
    scores: list[Tensor] | None = None  # a video (P, its frames), to a token's scores in every head


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of `tensor` runs: its own, or autocast's where that is on."""
    # From an empty product: the functions that return autocast's dtype differ between versions of torch.
    return (tensor.new_empty(0, 1) @ tensor.new_empty(1, 0)).dtype


@torch.no_grad()
def fill_random(parameter: Tensor, generator: torch.Generator | None, *, std: float = 0.0, bound: float = 0.0) -> None:
    """Fill with N(0, std), or uniformly from -bound to bound when `bound` is not 0.

    Drawn in float32 on the generator's device: one seed gives one start, whatever the parameter's dtype and device.
    """
    device = parameter.device if generator is None else generator.device
    fresh = torch.empty(parameter.shape, dtype=torch.float32, device=device)
    if bound:
        fresh.uniform_(-bound, bound, generator=generator)
    else:
        fresh.normal_(0.0, std, generator=generator)
    parameter.copy_(fresh)


class Projection(nn.Linear):
    """A linear layer with Xavier-uniform start that can also be applied head by head, for the folded path.

    The head-wise products run inside `forward`, not on a borrowed `.weight`, so that whatever hooks modules
    (ZeRO-3 gathers a layer's weights before its forward) sees them too.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weight uniform within sqrt(6 / (in + out)) either side of 0, bias 0."""
        fill_random(self.weight, generator, bound=(6.0 / (self.in_features + self.out_features)) ** 0.5)
        if self.bias is not None:
            # In place, not by nn.init: transformers turns those functions off while it builds a model to load.
            self.bias.data.zero_()

    def forward(self, x: Tensor, fold: str = "") -> Tensor:
        """The plain layer, or its rows split over x's heads.

        Args:
            x: (..., in); for "queries" (V, H, P, out / H); for "contexts" (V, H, P, in).
            fold: "" plain; "queries" q W_h, of width `in`; "contexts" c W_h^T + b_h, of width out / H.
        """
        if not fold:
            return super().forward(x)
        weight = self.weight.view(x.shape[1], -1, self.in_features)
        rows = x.transpose(0, 1).flatten(1, 2)  # (H, V * P, ...): by videos, a product would copy the weights for each
        if fold == "queries":
            out = rows @ weight
        else:
            out = rows @ weight.transpose(1, 2)
            out = out if self.bias is None else out + self.bias.view(x.shape[1], 1, -1)
        return out.unflatten(1, (x.shape[0], x.shape[2])).transpose(0, 1)


def _flash_device(tensor: Tensor) -> bool:
    return tensor.is_cuda and compute_dtype(tensor) in (torch.float16, torch.bfloat16)


def _flash_runs(tensor: Tensor, head_width: int) -> bool:
    if head_width > _FLASH_HEAD_WIDTH or not _flash_device(tensor):
        return False
    try:
        from flash_attn import flash_attn_varlen_func  # noqa: F401
    except ImportError:  # absent, or built for another torch
        return False
    return True


def resolve(attn: str, num_tokens: int, num_heads: int, width: int, tensor: Tensor, added: bool = False) -> str:
    """Choose the path: "folded", "sdpa" or "flash".

    `auto` counts multiply-adds a patch. Projecting K and V costs 2 D^2 and attending with them 2 P D; folded, scores
    and contexts cost P H D each. So folded is cheaper exactly when 2 P H D < 2 D^2 + 2 P D, that is P (H - 1) < D.
    (What both share, or what does not grow with the patches, is left out.) Otherwise flash where it runs, else sdpa.

    `tensor` is the states, for their device and dtype; `added`: whether something is added to scores, which
    flash-attn's kernels cannot.

    Raises:
        Ego2ExoError: "flash" where flash-attn cannot run.
    """
    if attn in ("folded", "sdpa"):
        return attn
    if attn == "auto" and num_tokens * (num_heads - 1) < width:
        return "folded"
    if not added and _flash_runs(tensor, width // num_heads):
        return "flash"
    if attn == "auto":
        return "sdpa"
    if added:
        raise Ego2ExoError("attn 'flash' with a time bias", "auto, folded, sdpa", "use auto, or no time bias")
    raise Ego2ExoError(
        f"attn 'flash' for {compute_dtype(tensor)} on {tensor.device.type} with heads of width {width // num_heads}",
        f"float16 or bfloat16 on cuda, heads of width up to {_FLASH_HEAD_WIDTH}, and the package flash-attn installed",
        "use auto, which needs no flash-attn, or install flash-attn and run in half precision on a GPU",
    )


class CrossAttention(nn.Module):
    """Multi-head cross-attention with projections of its own (paper section 3.2).

    Each path computes softmax((x Wq + bq)(h Wk)^T / sqrt(d)) (h Wv + bv) Wo + bo, to rounding.

    Args:
        width: D, of tokens and states.
        num_heads: H; d = D / H.
        attn: how to compute it, see :func:`resolve`.

    Attributes:
        keep_weights: whether the folded path keeps for backward its weights too, or the states alone.
            None: on a CPU, where computing them again costs a fifth of the time and memory is plenty; not on a GPU,
            where it is the other way round. `scripts/bench_attention.py` measures both.
    """

    def __init__(self, width: int, num_heads: int, attn: str = "auto") -> None:
        super().__init__()
        self.width, self.num_heads, self.attn = width, num_heads, attn
        self.q = Projection(width, width)
        # A key bias adds the same amount to all scores of a query and cancels in the softmax: it would be a
        # parameter without a gradient.
        self.k = Projection(width, width, bias=False)
        self.v = Projection(width, width)
        self.out = Projection(width, width)
        self.keep_weights: bool | None = None

    def forward(
        self, tokens: Tensor, states: Tensor, lengths: list[int], key_embedding: KeyEmbedding | None = None
    ) -> Tensor:
        """Let each video's tokens attend to all patches of all its frames.

        Args:
            tokens: (V, P, D), a row a video.
            states: (sum of lengths, patches, D), the frames of all videos in turn, of any float dtype.
            lengths: frames of each video, V of them, each at least 1. With none nothing is computed, and the result,
                (0, P, D), ties all weights to the graph.
            key_embedding: added to the keys alone, in the dtype that the weights compute in, on the states' device.

        Returns:
            (V, P, D).
        """
        queries = rearrange(self.q(tokens), "v p (h d) -> v h p d", h=self.num_heads)
        extra, path = key_embedding or KeyEmbedding(), "folded"
        if lengths:
            added = extra.scores is not None
            path = resolve(self.attn, tokens.shape[1], self.num_heads, self.width, queries, added)
        attend = {"folded": self._folded, "sdpa": self._sdpa, "flash": self._flash}[path]
        heads = attend(queries, states, lengths, extra)  # (V, H, P, d)
        return self.out(rearrange(heads, "v h p d -> v p (h d)"))

    def _folded(self, queries: Tensor, states: Tensor, lengths: list[int], extra: KeyEmbedding) -> Tensor:
        # Scaled before folding: the largest numbers come last, which spares float16 an overflow.
        folded = self.k(queries * queries.shape[-1] ** -0.5, fold="queries").flatten(1, 2)  # (V, H * P, D)
        attend = lean
        if self._keeps_weights(states):
            # One copy for all uses, where a class token was cut away or a dtype differs; `lean` keeps none.
            attend, states = kept, states.to(folded.dtype).contiguous()
        contexts = [
            attend(query, frames, *_embedding_scores(query, len(frames), extra, number))
            for number, (query, frames) in enumerate(zip(folded, states.split(lengths), strict=True))
        ]
        stacked = torch.stack(contexts) if contexts else folded
        return self.v(stacked.unflatten(1, queries.shape[1:3]), fold="contexts")

    def _keeps_weights(self, states: Tensor) -> bool:
        return states.device.type == "cpu" if self.keep_weights is None else self.keep_weights

    def _keys_values(self, states: Tensor, lengths: list[int], extra: KeyEmbedding) -> tuple[Tensor, Tensor]:
        """K and V of all patches, (sum of lengths * patches, H, d) each."""
        # Where a class token was cut away, both projections would make, and keep, a copy of their own.
        states = states.contiguous()
        keys = self.k(states)
        # The projection is linear, so projecting the few embeddings replaces forming states + embedding.
        if extra.frame is not None:
            keys = keys + torch.cat([self.k(extra.frame[:length]) for length in lengths])[:, None]
        if extra.position is not None:
            keys = keys + self.k(extra.position)
        split = (self.num_heads, self.width // self.num_heads)
        return keys.flatten(0, 1).unflatten(-1, split), self.v(states).flatten(0, 1).unflatten(-1, split)

    def _sdpa(self, queries: Tensor, states: Tensor, lengths: list[int], extra: KeyEmbedding) -> Tensor:
        patches = [length * states.shape[1] for length in lengths]
        keys, values = (x.split(patches) for x in self._keys_values(states.to(queries.dtype), lengths, extra))
        masks: list[Tensor | None] = [None] * len(lengths)
        if extra.scores is not None:
            masks = [scores.to(queries.dtype).repeat_interleave(states.shape[1], 1) for scores in extra.scores]
        heads = [
            functional.scaled_dot_product_attention(
                query[None], key.transpose(0, 1)[None], value.transpose(0, 1)[None], mask
            )
            for query, key, value, mask in zip(queries, keys, values, masks, strict=True)
        ]
        return torch.cat(heads)

    def _flash(self, queries: Tensor, states: Tensor, lengths: list[int], extra: KeyEmbedding) -> Tensor:
        from flash_attn import flash_attn_varlen_func

        videos, _, count, _ = queries.shape
        keys, values = self._keys_values(states.to(queries.dtype), lengths, extra)
        packed = queries.transpose(1, 2).flatten(0, 1)  # (V * P, H, d)
        ends = [0]
        for length in lengths:
            ends.append(ends[-1] + length * states.shape[1])
        starts_q = torch.arange(videos + 1, dtype=torch.int32, device=states.device) * count
        starts_k = torch.tensor(ends, dtype=torch.int32, device=states.device)
        longest = max(lengths) * states.shape[1]
        heads = flash_attn_varlen_func(packed, keys, values, starts_q, starts_k, count, longest)
        return heads.unflatten(0, (videos, count)).transpose(1, 2)


def _embedding_scores(
    query: Tensor, frames: int, extra: KeyEmbedding, video: int
) -> tuple[Tensor | None, Tensor | None]:
    """What is added to a video's scores: a number a frame (M, frames), a number a patch (M, patches).

    Of an embedding e this is q'·e; states + e is never made.
    """
    frame = None if extra.frame is None else query @ extra.frame[:frames].T
    position = None if extra.position is None else query @ extra.position.T
    if extra.scores is not None:
        own = extra.scores[video].to(query.dtype)
        own = own.repeat(query.shape[0] // own.shape[0], 1)  # the rows of `query` are heads, then tokens
        frame = own if frame is None else frame + own
    return frame, position
