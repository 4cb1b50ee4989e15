"""Ego Adaptive Visual Tokens: learnable tokens that read the frozen vision encoder layer by layer (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import default_grid
from ..errors import Ego2ExoError
from .attention import CrossAttention, KeyEmbedding, Projection, compute_dtype, fill_random
from .encoder_block import EncoderBlock, TowerLayer, anchors, normed_states, time_scores
from .offload import offloaded
from .position_embedding import frame_embedding, position_embedding
from .transformer_block import TransformerBlock, reset_layer_norm

_TOKEN_STD = 0.02


_BLOCK_TYPES = {"cross_attention": CrossAttention, "transformer": TransformerBlock}


class EgoAdaptiveTokens(nn.Module):
    """P learnable tokens that read chosen layers of the frozen vision encoder in turn (paper section 3.2).

    p_0 are the tokens; p_l = Block_l(p_{l-1}, h_l) over the chosen layers l. Each video starts from the same p_0.
    State dict: `tokens` (P, D) and `blocks.<i>.…`, i counting the chosen layers from 0. No buffers, so that the
    module can be built on the meta device and loaded.

    With the block "encoder" h_l is what enters layer l of the encoder and not what leaves it; p_0 are the tokens plus
    the averages of h_0 over the cells of a grid, token p in cell p in the order time, row, column. Scores of a frame at
    tau = (f + 0.5) / T of its video get -((tau - c_p) w_p)^2, where c_p starts at the centre of the token's cell in
    time and w_p at twice the number of such cells; the state dict has what is added to them, `time_shift` and
    `time_sharpening` (P,). "constant" reads nothing: every video gets the tokens as they are.

    Args:
        num_tokens: P.
        vision_width: D, the encoder's.
        num_heads: H; must divide D.
        layers: zero-based encoder layers to read, ascending.
        block: "cross_attention" (plain: no residual, norm or positional encoding), "transformer", "encoder" or
            "constant" (which has no layers).
        attn: how attention is computed, see :func:`.attention.resolve`.
        key_embedding: what is added to the keys: "none", "frame", or "frame+position"; sin-cos, no parameters.
        grid: of "encoder": cells in time, rows and columns, P in all; None starts from the tokens alone.
        time_bias: of "encoder": whether scores fall with the distance in time.
        mlp: of "encoder": whether tokens pass the encoder's MLPs.

    :class:`~llava_ego2exo.config.Ego2ExoConfig` checks these values.
    """

    def __init__(
        self,
        num_tokens: int,
        vision_width: int,
        num_heads: int,
        layers: Sequence[int],
        block: str = "cross_attention",
        attn: str = "auto",
        key_embedding: str = "none",
        grid: tuple[int, int, int] | None = None,
        time_bias: bool = False,
        mlp: bool = True,
    ) -> None:
        super().__init__()
        self.grid, self.time_bias = grid, time_bias
        self.visits = block == "encoder"  # the tokens pass through the encoder, and read what enters its layers
        self.layers = () if block == "constant" else tuple(layers)
        # Kept as numbers: under ZeRO-3 and FSDP a parameter's own shape is meaningless.
        self.num_tokens, self.width, self.key_embedding = num_tokens, vision_width, key_embedding
        made = partial(EncoderBlock, mlp=mlp) if block == "encoder" else _BLOCK_TYPES.get(block)
        self.blocks = nn.ModuleList(made(vision_width, num_heads, attn) for _ in self.layers)  # type: ignore[misc]
        self.tokens = nn.Parameter(torch.empty(num_tokens, vision_width))
        if time_bias:
            # From 0: added to a number like 8, a learning rate's step would be lost in bfloat16.
            self.time_shift = nn.Parameter(torch.zeros(num_tokens))
            self.time_sharpening = nn.Parameter(torch.zeros(num_tokens))
        # The blocks have drawn their weights when they were built; drawing all anew would double the time.
        fill_random(self.tokens, None, std=_TOKEN_STD)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every parameter anew: tokens N(0, 0.02), weights Xavier-uniform, biases 0, layer norms 1 and 0.

        With a generator the global one is left untouched, and one seed gives the same weights in every dtype and on
        every device. Weights must not be partitioned meanwhile.
        """
        fill_random(self.tokens, generator, std=_TOKEN_STD)
        for module in self.blocks.modules():
            if isinstance(module, Projection):
                module.reset_parameters(generator)
            elif isinstance(module, nn.LayerNorm):
                reset_layer_norm(module)
        if self.time_bias:
            self.time_shift.data.zero_()
            self.time_sharpening.data.zero_()

    @torch.no_grad()
    def copy_attention(self, tower: Sequence[TowerLayer]) -> None:
        """Start each block's attention as that of its encoder layer; `tower` by zero-based layer number."""
        modules = [module for module in self.blocks.modules() if isinstance(module, CrossAttention)]
        for number, attention in zip(self.layers, modules, strict=True):
            for name in ("q", "k", "v", "out"):
                mine, its = getattr(attention, name), getattr(tower[number], name)
                mine.weight.copy_(its.weight)
                if mine.bias is not None:
                    mine.bias.zero_() if its.bias is None else mine.bias.copy_(its.bias)

    @property
    def reads(self) -> tuple[int, ...]:
        """Layers whose states `forward` takes, ascending; "constant" takes none."""
        return tuple(sorted({*self.layers, *((0,) if self.grid else ())}))

    def set_attn(self, attn: str) -> None:
        """Compute attention another way from now on; the function stays the same."""
        for module in self.blocks.modules():
            if isinstance(module, CrossAttention):
                module.attn = attn

    def forward(
        self,
        hidden_states: Mapping[int, Tensor] | Sequence[Tensor],
        lengths: list[int],
        offload: bool = False,
        tower: Sequence[TowerLayer] | None = None,
    ) -> Tensor:
        """Read the chosen layers.

        Args:
            hidden_states: by zero-based layer number, each (sum of lengths, patches, D): the frames of all videos in
                turn. Any dtype and device. Each layer is read once, right before its use.
            lengths: frames of each of the V videos; with none, nothing is read or computed, and the result is
                (0, P, D), tied to every parameter (see :meth:`EgoBranch.unused`).
            offload: what backward needs of a layer waits in the host's memory, see :mod:`.offload`.
            tower: for "encoder": the encoder's layers by number, whose norms and MLPs the tokens pass. On the tokens'
                device.

        Returns:
            (V, P, D), on the tokens' device.

        Raises:
            Ego2ExoError: a chosen layer is missing, or states and lengths do not fit.
        """
        if lengths and min(lengths) < 1:
            raise Ego2ExoError(f"lengths {list(lengths)}", "at least one frame a video", "leave out empty videos")
        if lengths and self.visits and tower is None:
            raise Ego2ExoError("block encoder without the encoder's layers", "them as `tower`", "pass `tower`")
        tokens = self.tokens.expand(len(lengths), -1, -1)
        scores = self._time_scores(lengths)
        if not lengths and self.time_bias:
            tokens = tokens + (self.time_shift + self.time_sharpening).expand(0, -1)[..., None]
        entry = None
        if lengths and self.grid:
            entry = self._layer(hidden_states, 0, sum(lengths))
            tokens = tokens + anchors(entry, lengths, self.grid).to(tokens)
        for layer, block in zip(self.layers, self.blocks, strict=True):
            states, entry = entry if layer == 0 else None, None
            if not lengths:
                states = tokens.new_empty(0, 1, self.width)
            elif states is None:
                states = self._layer(hidden_states, layer, sum(lengths))
            visit = {}
            if lengths and self.visits:
                visit, states = {"layer": tower[layer]}, normed_states(tower[layer], states)
            tokens = self._read(partial(block, **visit), tokens, states, list(lengths), scores, offload)
            del states  # before the next layer is read
        return tokens

    def _time_scores(self, lengths: list[int]) -> list[Tensor] | None:
        if not self.time_bias:
            return None
        cells = (self.grid or default_grid(self.num_tokens))[0]
        token = torch.arange(self.num_tokens, device=self.time_shift.device)
        centre = (token * cells // self.num_tokens + 0.5) / cells + self.time_shift.float()
        sharpness = 2 * cells + self.time_sharpening.float()
        by_length = {n: time_scores(centre, sharpness, n) for n in set(lengths)}
        return [by_length[n] for n in lengths]

    def _read(
        self,
        block: Callable[..., Tensor],
        tokens: Tensor,
        states: Tensor,
        lengths: list[int],
        scores: list[Tensor] | None,
        offload: bool,
    ) -> Tensor:
        dtype = compute_dtype(self.tokens)
        states = states.to(self.tokens.device)
        if states.element_size() >= dtype.itemsize:  # less to keep for backward; narrower ones are cast piece by piece
            states = states.to(dtype)
        embedding = self._embedding(max(lengths, default=0), states.shape[1], dtype)._replace(scores=scores)
        with offloaded(states) if offload else nullcontext():
            return block(tokens, states, lengths, embedding)

    def _embedding(self, frames: int, patches: int, dtype: torch.dtype) -> KeyEmbedding:
        """What the keys of so many frames and patches get; computed anew, for there are no buffers."""
        device = self.tokens.device
        if self.key_embedding == "none":
            return KeyEmbedding()
        frame = frame_embedding(frames, self.width, device).to(dtype)
        if self.key_embedding == "frame":
            return KeyEmbedding(frame)
        return KeyEmbedding(frame, position_embedding(patches, self.width, device).to(dtype))

    def _layer(self, hidden_states: Mapping[int, Tensor] | Sequence[Tensor], layer: int, frames: int) -> Tensor:
        known = hidden_states if isinstance(hidden_states, Mapping) else range(len(hidden_states))
        if layer not in known:
            raise Ego2ExoError(
                f"no hidden states of layer {layer}", f"the chosen layers {list(self.layers)}", "collect these layers"
            )
        states = hidden_states[layer]
        shape = tuple(states.shape)
        if len(shape) != 3 or shape[0] != frames or shape[1] < 1 or shape[2] != self.width:
            raise Ego2ExoError(
                f"hidden states of layer {layer} have shape {shape}",
                f"({frames}, patches, {self.width}): the sum of lengths, one patch or more, the tokens' width",
                "pass every frame of every video once, from the encoder the tokens were made for",
            )
        return states


class EgoBranch(nn.Module):
    """Ego Adaptive Visual Tokens followed by Projector_ego (paper section 3.2).

    Args:
        reader: the tokens with one attention a chosen encoder layer.
        projector: maps (..., D) to (..., LLM width); shaped as the ordinary projector, weights of its own.
    """

    def __init__(self, reader: EgoAdaptiveTokens, projector: nn.Module) -> None:
        super().__init__()
        self.reader = reader
        self.projector = projector

    def forward(
        self,
        hidden_states: Mapping[int, Tensor],
        lengths: list[int],
        offload: bool = False,
        again: Callable[[], Mapping[int, Tensor]] | None = None,
        tower: Sequence[TowerLayer] | None = None,
    ) -> Tensor:
        """Ego tokens of several videos.

        Args:
            hidden_states: layer number -> (sum of lengths, patches, D), the frames of all videos in turn.
            lengths: frames of each video.
            offload: what backward needs of the layers waits in the host's memory.
            again: returns `hidden_states` again; with it nothing of them is kept until backward, which calls it. They
                must be the same numbers, and get no gradient.
            tower: as :meth:`EgoAdaptiveTokens.forward` takes it.

        Returns:
            (videos, P, LLM width).
        """
        if again is None or not torch.is_grad_enabled():
            return self.projector(self.reader(hidden_states, lengths, offload, tower))
        first = [hidden_states]  # taken out at its use: what lives until backward must not hold them

        def read() -> Tensor:
            return self.reader(first.pop() if first else again(), lengths, tower=tower)

        return self.projector(checkpoint(read, use_reentrant=False, preserve_rng_state=False))

    def unused(self) -> Tensor:
        """An empty (0, LLM width) tensor through which every parameter gets a gradient of zero, at no operation.

        Distributed training waits for a gradient of each parameter, also where a batch holds no video, and ZeRO-3
        for each module's own forward. So all of them run, on no rows; a product with zero would cost as much as a
        video's tokens, and let an inf or nan through to the loss.
        """
        return self({}, []).flatten(0, 1)

    def reset_parameters(self, seed: int) -> None:
        """Fresh weights from `seed` alone: the same on every process, and the global generator is left untouched."""
        self.reader.reset_parameters(torch.Generator().manual_seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.projector.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
