"""A LLaVA model and its ego branch built from sizes, as one training run holds them."""

from __future__ import annotations

import contextlib
import re
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from ..method.attention import CrossAttention
from ..method.branch import EgoBranch
from ..method.ego_tokens import EgoAdaptiveTokens
from ..method.losses import distillation_sums
from .shapes import Shapes

# Linear layers as a (Q)LoRA run has them, in what they take of memory: frozen, in 4 bits or not, with an adapter.

_BLOCK, _SUPER_BLOCK = 64, 256  # numbers that share a scale in NF4, and scales that share one when quantized twice


class _Dequantized(torch.autograd.Function):
    """x W^T with W made from its 4 bits for the time of a product, forward and backward, as bitsandbytes does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.whole(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.whole(grad.dtype), None


class Quantized(nn.Module):
    """A frozen linear layer in NF4 with quantized scales."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.shape, count = (outputs, inputs), inputs * outputs
        self.register_buffer("weight", torch.empty(-(-count // 2), 1, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(-(-count // _BLOCK), dtype=torch.uint8))
        self.register_buffer("scales_of_scales", torch.empty(-(-count // (_BLOCK * _SUPER_BLOCK))))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=torch.bfloat16), requires_grad=False) if bias else None

    def whole(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        return torch.empty(self.shape, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            out = _Dequantized.apply(x.to(torch.bfloat16), self)
        out = out if self.bias is None else out + self.bias
        # bitsandbytes gives back the type that it was given: float32 behind a float32 norm. peft clones that before
        # it adds the adapter's part.
        return out.to(x.dtype).clone()


class Adapted(nn.Module):
    """A frozen layer with LoRA, as peft computes it.

    Args:
        base: the layer.
        inputs: its width in.
        outputs: its width out.
        rank: r.
        dropout: its probability.
        dtype: of the adapter's weights.
    """

    def __init__(
        self, base: nn.Module, inputs: int, outputs: int, rank: int, dropout: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(dropout) if dropout else nn.Identity()
        self.lora_a = nn.Linear(inputs, rank, bias=False, dtype=dtype)
        self.lora_b = nn.Linear(rank, outputs, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        return out + self.lora_b(self.lora_a(self.dropout(x.to(self.lora_a.weight.dtype)))) * 0.25


def adapt(model: nn.Module, bits: int, rank: int, dropout: float, dtype: torch.dtype) -> None:
    """Exchange every linear layer but the head for one as a run with `--lora_enable` has it, in place.

    Args:
        model: a language model of transformers.
        bits: 4 or 16.
        rank: r; 0: no adapters.
        dropout: of the adapters.
        dtype: of the adapters' weights.
    """
    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Linear and child_name != "lm_head":
                sizes = (child.in_features, child.out_features)
                base = Quantized(*sizes, child.bias is not None) if bits == 4 else child
                setattr(module, child_name, Adapted(base, *sizes, rank, dropout, dtype) if rank else base)
                del child, base


@dataclass(frozen=True)
class Run:
    """What a user chooses of a training run.

    Args:
        frames: of each clip.
        batch: clips in a small batch.
        bits: 4 or 16, of the frozen language model's weights.
        rank: of LoRA.
        dropout: of LoRA.
        prompt: text tokens of a sample before its answer.
        answer: tokens of an answer.
        checkpointing: of the language model's layers (`--gradient_checkpointing`).
        ego: the ego tokens; None: LLaVA alone, with its own loss.
        on_card: attention as on a GPU, which keeps less for backward than what is faster on the CPU.
        dtype: of what is not quantized.

    Raises:
        Ego2ExoError: a number below 1, or bits that have no plan.
    """

    frames: int
    batch: int = 1
    bits: int = 4
    rank: int = 64
    dropout: float = 0.05
    prompt: int = 128
    answer: int = 128
    checkpointing: bool = True
    ego: Ego2ExoConfig | None = field(default_factory=Ego2ExoConfig)
    on_card: bool = True
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        for name in ("frames", "batch", "rank", "prompt", "answer"):
            if getattr(self, name) < 1:
                raise Ego2ExoError(f"{name} {getattr(self, name)}", "a whole number from 1", "mend the number")
        if self.bits not in (4, 16):
            raise Ego2ExoError(f"{self.bits} bits", "4 or 16", "plan with one of these")
        if self.ego is not None and self.ego.states == "offload":
            raise Ego2ExoError("states offload", "keep or recompute", "plan with recompute, which holds no less")


@dataclass(frozen=True)
class Parts:
    """The pieces of a model, each a module; `ego` is None for LLaVA alone."""

    language: nn.Module
    tower: nn.Module
    projector: nn.Module
    ego: EgoBranch | None

    def modules(self) -> dict[str, nn.Module]:
        """By name, those that exist."""
        return {name: part for name, part in vars(self).items() if part is not None}

    def trained(self) -> list[Tensor]:
        """What gets a gradient and the optimizer's two averages."""
        return [p for part in self.modules().values() for p in part.parameters() if p.requires_grad]


def build(shapes: Shapes, run: Run) -> Parts:
    """Random weights of the real shapes; inside a FakeTensorMode they take no memory.

    Args:
        shapes: of the checkpoint.
        run: the user's choices.
    """
    from transformers import AutoModelForCausalLM

    language = AutoModelForCausalLM.from_config(
        shapes.language, torch_dtype=run.dtype, attn_implementation="sdpa"
    ).requires_grad_(False)
    adapt(language, run.bits, run.rank, run.dropout, run.dtype)
    parts = Parts(language, _tower(shapes, run), _projector(shapes, run), _ego(shapes, run))
    if run.bits == 4:  # LLaVA's train script makes every norm of a quantized model float32
        for part in parts.modules().values():
            _norms_in_float32(part)
    language.train()
    if run.checkpointing:
        # As the trainer does, save for the generator's states, which have no numbers here.
        language.gradient_checkpointing_enable({"use_reentrant": True, "preserve_rng_state": False})
    return parts


def _tower(shapes: Shapes, run: Run) -> nn.Module:
    from transformers import CLIPVisionModel, SiglipVisionModel

    kind = SiglipVisionModel if shapes.tower.model_type.startswith("siglip") else CLIPVisionModel
    return kind._from_config(shapes.tower, torch_dtype=run.dtype).requires_grad_(False)


def _projector(shapes: Shapes, run: Run) -> nn.Module:
    """LLaVA's `linear` or `mlpNx_gelu`.

    Raises:
        Ego2ExoError: another kind.
    """
    name = str(shapes.llava.get("mm_projector_type", "linear")).removeprefix("ego2exo_")
    depth = 1 if name == "linear" else re.fullmatch(r"mlp(\d+)x_gelu", name)
    if depth is None:
        raise Ego2ExoError(f"mm_projector_type {name!r}", "linear or mlpNx_gelu", "measure the training itself")
    inside, out = shapes.tower.hidden_size, shapes.language.hidden_size
    layers: list[nn.Module] = [nn.Linear(inside, out, dtype=run.dtype)]
    for _ in range(1, depth if isinstance(depth, int) else int(depth[1])):
        layers += [nn.GELU(), nn.Linear(out, out, dtype=run.dtype)]
    return nn.Sequential(*layers)


def _ego(shapes: Shapes, run: Run) -> EgoBranch | None:
    if run.ego is None:
        return None
    tower = shapes.tower
    reader = EgoAdaptiveTokens(
        run.ego.num_tokens, tower.hidden_size, tower.num_attention_heads,
        run.ego.layer_indices(tower.num_hidden_layers), run.ego.block, run.ego.attn, run.ego.key_embedding,
    )  # fmt: skip
    for module in reader.modules():
        if isinstance(module, CrossAttention):
            module.keep_weights = not run.on_card
    return EgoBranch(_cast(reader, run.dtype), _projector(shapes, run))


def _norms_in_float32(part: nn.Module) -> None:
    for name, module in part.named_modules():
        if "norm" in name:
            _cast(module, torch.float32)


def _cast(part: nn.Module, dtype: torch.dtype) -> nn.Module:
    """As `.to(dtype)`, in which torch would exchange parameters by a swap that made-up tensors refuse."""
    for module in part.modules():
        for key, value in list(module.named_parameters(recurse=False)):
            setattr(module, key, nn.Parameter(value.detach().to(dtype), requires_grad=value.requires_grad))
    return part


# How many bytes of tensors are alive while code runs: a count that works on the CPU and without any memory at all.

# CUDA's allocator hands out blocks of multiples of this.
_BLOCK_LIVE_BYTES = 512


class LiveBytes(TorchDispatchMode):
    """Inside the block, every storage that an operation makes is counted until it is freed.

    Views and results written into given tensors are nobody's new storage. What a kernel takes for itself while it runs
    is not seen. Tensors on the `meta` device count as if they had memory.

    Args:
        block: sizes are rounded up to multiples of it, as CUDA's allocator does; 1: exact sizes.

    Attributes:
        now: bytes alive.
        most: bytes that were alive at once since the block began, or since :meth:`restart`.
    """

    def __init__(self, block: int = _BLOCK_LIVE_BYTES) -> None:
        super().__init__()
        self.block, self.now, self.most = block, 0, 0
        self._known: dict[int, tuple[weakref.ref[UntypedStorage], int]] = {}

    def restart(self) -> None:
        """Forget the peak so far."""
        self.most = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        self._known[key] = (weakref.ref(storage, lambda _: self._freed(key)), size)
        self.now += size
        self.most = max(self.most, self.now)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)[1]


def held_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, of what quantized ones keep beside them, and of the optimizer's averages: each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        nested = getattr(state, "state2", None)
        tensors += [value for part in (state, nested) if part for value in (part.absmax, part.code)]
    tensors += [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


# One training step of the real shapes with tensors that have no memory: what it would take of a card.


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
