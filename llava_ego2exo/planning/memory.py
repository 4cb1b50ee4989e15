"""One training step of a checkpoint's real shapes on tensors that have no memory: what it would take of a card."""

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
from ..host.model.projector import build_reader
from ..host.model.vision import TowerFacts
from ..method.attention import CrossAttention
from ..method.ego_tokens import EgoBranch
from ..method.encoder_block import tower_layer
from ..method.losses import distillation_sums
from .shapes import Shapes

# CUDA's allocator hands out blocks of multiples of this many bytes.
ALLOCATOR_BLOCK = 512


@dataclass(frozen=True)
class RunShape:
    """What a user chooses of a training run with LoRA.

    Args:
        frames, batch: of each clip; clips in a small batch.
        bits: 4 or 16, of the frozen language model's weights.
        rank: of LoRA.
        prompt, answer: text tokens of a sample before its answer, and in it.
        checkpointing: of the language model's layers (`--gradient_checkpointing`).
        ego: the ego tokens; None: LLaVA alone, with its own loss.
        on_card: attention as on a GPU, which keeps less for backward than what is faster on the CPU.
        dtype: of what is not quantized.

    Raises:
        Ego2ExoError: a number below 1, or a choice that has no plan.
    """

    frames: int
    batch: int = 1
    bits: int = 4
    rank: int = 64
    prompt: int = 128
    answer: int = 128
    checkpointing: bool = True
    ego: Ego2ExoConfig | None = field(default_factory=Ego2ExoConfig)
    on_card: bool = True
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        for name in ("frames", "batch", "rank", "prompt", "answer"):
            if getattr(self, name) < 1:
                raise Ego2ExoError(f"{name} {getattr(self, name)}", "a whole number from 1", f"raise {name}")
        if self.ego is not None and self.ego.states == "offload":
            raise Ego2ExoError("states offload", "keep or recompute", "plan with recompute, which holds no less")


@dataclass(frozen=True)
class Estimate:
    """Bytes that torch would hold on the card, without what CUDA itself takes.

    Args:
        weights: adapters and ego tokens included.
        trained: gradients, and AdamW's two averages, of everything that trains.
        peak: the most in a step, all of the above included.
        length: of the language model's input, in tokens.
    """

    weights: int
    trained: int
    peak: int
    length: int


def estimate(shapes: Shapes, run: RunShape, block: int = ALLOCATOR_BLOCK) -> Estimate:
    """What a step with AdamW takes, found by running it on tensors without memory.

    The second step is the one that counts: AdamW's averages exist from the first on.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes(block) as live:
        parts = _build(shapes, run)
        trained = [p for part in parts.values() for p in part.parameters() if p.requires_grad]
        averages = [torch.zeros_like(p) for p in trained for _ in range(2)]
        live.restart()
        length = _step(parts, shapes, run)
        roots = [torch.empty_like(p) for p in trained]  # AdamW's temporaries, of all parameters at once
        peak = live.peak
    del roots
    held = [p.grad for p in trained if p.grad is not None] + averages
    weights = [value for part in parts.values() for value in part.state_dict().values()]
    bytes_of = [sum(tensor.untyped_storage().nbytes() for tensor in tensors) for tensors in (weights, held)]
    return Estimate(*bytes_of, peak, length)


class LiveBytes(TorchDispatchMode):
    """Inside the block, every storage that an operation makes is counted until it is freed.

    Views and results written into given tensors are no new storage. What a kernel takes for itself while it runs is
    not seen. Tensors on the `meta` device count as if they had memory. Sizes are rounded up to multiples of `block`,
    as CUDA's allocator does; `peak` is the most bytes alive at once since the block began, or since :meth:`restart`.
    """

    def __init__(self, block: int = ALLOCATOR_BLOCK) -> None:
        super().__init__()
        self.block, self.now, self.peak = block, 0, 0
        self._known: dict[int, tuple[weakref.ref[UntypedStorage], int]] = {}

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // self.block) * self.block
        self._known[key] = (weakref.ref(storage, lambda _: self._freed(key)), size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key)[1]


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, of what quantized ones keep beside them, and of the optimizer's averages: each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        nested = getattr(state, "state2", None)
        tensors += [value for part in (state, nested) if part for value in (part.absmax, part.code)]
    tensors += [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class _Dequantized(torch.autograd.Function):
    """x W^T with W made from its 4 bits for the time of a product, forward and backward, as bitsandbytes does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.dequantized(grad.dtype), None


class QuantizedLinear(nn.Module):
    """What a frozen linear layer holds in NF4: a scale for 64 numbers, and a scale for 256 scales."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.shape, count = (outputs, inputs), inputs * outputs
        self.register_buffer("weight", torch.empty(-(-count // 2), 1, dtype=torch.uint8))
        self.register_buffer("scales", torch.empty(-(-count // 64), dtype=torch.uint8))
        self.register_buffer("scales_of_scales", torch.empty(-(-count // (64 * 256))))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=torch.bfloat16), requires_grad=False) if bias else None

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(outputs, inputs)."""
        return torch.empty(self.shape, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            out = _Dequantized.apply(x.to(torch.bfloat16), self)
        out = out if self.bias is None else out + self.bias
        # bitsandbytes returns the type it was given: float32 after a float32 norm. peft clones that before adding.
        return out.to(x.dtype).clone()


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter, as peft computes it."""

    def __init__(self, layer: nn.Linear, run: RunShape) -> None:
        super().__init__()
        inputs, outputs = layer.in_features, layer.out_features
        self.base = QuantizedLinear(inputs, outputs, layer.bias is not None) if run.bits == 4 else layer
        self.dropout = nn.Dropout(0.05)
        self.lora_a = nn.Linear(inputs, run.rank, bias=False, dtype=run.dtype)
        self.lora_b = nn.Linear(run.rank, outputs, bias=False, dtype=run.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(self.dropout(x.to(self.lora_a.weight.dtype)))) * 0.25


def _build(shapes: Shapes, run: RunShape) -> dict[str, nn.Module]:
    """The parts of a model by name, with random weights of the real shapes."""
    from transformers import CLIPVisionModel, SiglipVisionModel

    tower = SiglipVisionModel if shapes.tower.model_type.startswith("siglip") else CLIPVisionModel
    parts = {
        "language": _language(shapes, run),
        "tower": tower._from_config(shapes.tower, torch_dtype=run.dtype).requires_grad_(False),
        "projector": _projector(shapes, run),
    }
    if run.ego is not None:
        parts["ego"] = _ego(shapes, run, run.ego)
    if run.bits == 4:  # LLaVA's train script makes every norm of a quantized model float32
        for part in parts.values():
            for name, module in part.named_modules():
                if "norm" in name:
                    _cast(module, torch.float32)
    return parts


def _language(shapes: Shapes, run: RunShape) -> nn.Module:
    from transformers import AutoModelForCausalLM

    options = {"torch_dtype": run.dtype, "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_config(shapes.language, **options).requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(module, name, LoraLinear(child, run))
                del child
    model.train()
    if run.checkpointing:
        # As the trainer does, except for the generator's states, which have no numbers here.
        model.gradient_checkpointing_enable({"use_reentrant": True, "preserve_rng_state": False})
    return model


def _projector(shapes: Shapes, run: RunShape) -> nn.Module:
    """LLaVA's `linear` or `mlpNx_gelu`."""
    name = str(shapes.llava.get("mm_projector_type", "linear")).removeprefix("ego2exo_")
    found = re.fullmatch(r"linear|mlp(\d+)x_gelu", name)
    if found is None:
        raise Ego2ExoError(f"mm_projector_type {name!r}", "linear or mlpNx_gelu", "measure the training itself")
    out = shapes.language.hidden_size
    layers: list[nn.Module] = [nn.Linear(shapes.tower.hidden_size, out, dtype=run.dtype)]
    for _ in range(1, int(found[1] or 1)):
        layers += [nn.GELU(), nn.Linear(out, out, dtype=run.dtype)]
    return nn.Sequential(*layers)


def _ego(shapes: Shapes, run: RunShape, ego: Ego2ExoConfig) -> EgoBranch:
    tower, select = shapes.tower, shapes.llava.get("mm_vision_select_layer", -2)
    used = tower.num_hidden_layers  # LLaVA-NeXT takes the last one of SigLIP's that it leaves
    if not tower.model_type.startswith("siglip"):
        used = select % (used + 1)
    facts = TowerFacts(tower.num_hidden_layers, tower.hidden_size, tower.num_attention_heads, used)
    reader = build_reader(ego, facts)
    for module in reader.modules():
        if isinstance(module, CrossAttention):
            module.keep_weights = not run.on_card
        _cast(module, run.dtype)
    return EgoBranch(reader, _projector(shapes, run))


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """As `.to(dtype)`, in which torch would exchange parameters by a swap that tensors without memory refuse."""
    for part in module.modules():
        for key, value in list(part.named_parameters(recurse=False)):
            setattr(part, key, nn.Parameter(value.detach().to(dtype), requires_grad=value.requires_grad))


def _step(parts: dict[str, nn.Module], shapes: Shapes, run: RunShape) -> int:
    """Forward and backward; the length of the language model's input."""
    language = parts["language"]
    precision = torch.autocast("cpu", run.dtype) if run.dtype != torch.float32 else contextlib.nullcontext()
    with precision:
        embeds = _inputs(parts, shapes, run)
        hidden = language.model(inputs_embeds=embeds, use_cache=False)[0]
        head = language.get_output_embeddings()
        if run.ego is not None:  # the cross-entropy from the answers' states alone
            answers = hidden[:, -run.answer - 1 : -1].flatten(0, 1)
            loss = distillation_sums(head, answers, torch.zeros(answers.shape[0], dtype=torch.long))[0]
        else:  # LLaVA's from all
            logits = head(hidden).float()[:, :-1].contiguous().flatten(0, 1)
            loss = F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.long))
    loss.backward()
    return embeds.shape[1]


def _inputs(parts: dict[str, nn.Module], shapes: Shapes, run: RunShape) -> Tensor:
    """(batch, length, width): text, the video's tokens, its ego tokens, and the answer."""
    ego, size = run.ego, shapes.tower.image_size
    pixels = torch.empty(run.batch * run.frames, 3, size, size, dtype=run.dtype)
    features, states = _encoded(parts, shapes, run, pixels)
    visual = ego is None or ego.visual_tokens
    video = [_pooled(parts["projector"](features), shapes, run)] if visual else []
    if ego is not None:
        again = (lambda: _encoded(parts, shapes, run, pixels)[1]) if ego.states == "recompute" else None
        layers = parts["tower"].vision_model.encoder.layers
        tower = [tower_layer(layer) for layer in layers] if parts["ego"].reader.visits else None
        video.append(parts["ego"](states, [run.frames] * run.batch, again=again, tower=tower))
    tokens = torch.zeros(run.batch, run.prompt + run.answer, dtype=torch.long)
    text = parts["language"].get_input_embeddings()(tokens)
    return torch.cat([text[:, : run.prompt], *video, text[:, run.prompt :]], dim=1)


class Once(dict[int, Tensor]):
    """States by layer, each handed out once, as training does."""

    def __getitem__(self, layer: int) -> Tensor:
        return self.pop(layer)


@torch.no_grad()
def _encoded(
    parts: dict[str, nn.Module], shapes: Shapes, run: RunShape, pixels: Tensor
) -> tuple[Tensor, dict[int, Tensor]]:
    """What the projector reads, and what the ego tokens read."""
    states = parts["tower"](pixels, output_hidden_states=True).hidden_states
    patches = shapes.side**2
    chosen = states[shapes.llava.get("mm_vision_select_layer", -2)][:, -patches:]
    if run.ego is None:
        return chosen, {}
    reader = parts["ego"].reader
    return chosen, Once({layer: states[layer + (not reader.visits)][:, -patches:] for layer in reader.reads})


def _pooled(features: Tensor, shapes: Shapes, run: RunShape) -> Tensor:
    """(batch, visual tokens, width), with LLaVA's tokens at the ends of rows or frames."""
    if shapes.pooled_size != (shapes.side, shapes.side):
        grid = features.unflatten(1, (shapes.side, shapes.side)).permute(0, 3, 1, 2).contiguous()
        features = F.adaptive_avg_pool2d(grid, shapes.pooled_size).flatten(2).transpose(1, 2)
    video = features.reshape(run.batch, -1, features.shape[-1])
    newlines = video.new_empty(run.batch, shapes.visual_tokens(run.frames) - video.shape[1], video.shape[2])
    return torch.cat([video, newlines], dim=1) if newlines.shape[1] else video
