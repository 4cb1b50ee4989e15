"""A checkpoint's parts in their real shapes, on tensors that have no memory inside `FakeTensorMode`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from ..host.model.projector import build_reader
from ..host.model.vision import TowerFacts
from ..method.attention import CrossAttention
from ..method.ego_tokens import EgoBranch
from ..method.encoder_block import tower_layer
from .shapes import Shapes


@dataclass(frozen=True)
class RunShape:
    """What a user chooses of a training run with LoRA.

    Args:
        frames, batch: of each clip; clips in a small batch.
        bits: 4 or 16, of the frozen language model's weights.
        rank: of LoRA.
        prompt, answer: text tokens of a sample before its answer, and in it.
        on_policy: the answer is one that the student itself has sampled, and a teacher of its own kind scores it.
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
    on_policy: bool = False
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
        if self.ego is None and self.on_policy:
            raise Ego2ExoError("on-policy steps of LLaVA alone", "them with ego tokens", "plan without one of the two")


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


def build(shapes: Shapes, run: RunShape, adapters: bool = True) -> dict[str, nn.Module]:
    """The parts of a model by name: `language`, with LoRA or without, `tower`, `projector`, and `ego` where there is.

    To be called inside `FakeTensorMode`, or the weights take memory.
    """
    from transformers import CLIPVisionModel, SiglipVisionModel

    tower = SiglipVisionModel if shapes.tower.model_type.startswith("siglip") else CLIPVisionModel
    parts = {
        "language": _language(shapes, run, adapters),
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


def _language(shapes: Shapes, run: RunShape, adapters: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM

    options = {"torch_dtype": run.dtype, "attn_implementation": "sdpa"}
    model = AutoModelForCausalLM.from_config(shapes.language, **options).requires_grad_(False)
    if not adapters:
        return model.eval()
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


def inputs(
    parts: dict[str, nn.Module], shapes: Shapes, run: RunShape, answer: int, hidden_states: Any = None
) -> Tensor:
    """(batch, length, width): text, the video's tokens, its ego tokens, and so many of the answer's.

    `hidden_states` are those of :func:`encode`, where the clip has been encoded before.
    """
    ego, pixels = run.ego, clip(shapes, run)
    features, states = _encoded(parts, shapes, run, pixels, hidden_states)
    visual = ego is None or ego.visual_tokens
    video = [_pooled(parts["projector"](features), shapes, run)] if visual else []
    if ego is not None:
        again = (lambda: _encoded(parts, shapes, run, pixels)[1]) if ego.states == "recompute" else None
        layers = parts["tower"].vision_model.encoder.layers
        tower = [tower_layer(layer) for layer in layers] if parts["ego"].reader.visits else None
        video.append(parts["ego"](states, [run.frames] * run.batch, again=again, tower=tower))
    tokens = torch.zeros(run.batch, run.prompt + answer, dtype=torch.long)
    text = parts["language"].get_input_embeddings()(tokens)
    return torch.cat([text[:, : run.prompt], *video, text[:, run.prompt :]], dim=1)


class Once(dict[int, Tensor]):
    """States by layer, each handed out once, as training does."""

    def __getitem__(self, layer: int) -> Tensor:
        return self.pop(layer)


def clip(shapes: Shapes, run: RunShape) -> Tensor:
    """(frames, 3, height, width) of a small batch."""
    size = shapes.tower.image_size
    return torch.empty(run.batch * run.frames, 3, size, size, dtype=run.dtype)


@torch.no_grad()
def encode(parts: dict[str, nn.Module], pixels: Tensor) -> tuple[Tensor, ...]:
    """The tower's hidden states."""
    return parts["tower"](pixels, output_hidden_states=True).hidden_states


def _encoded(
    parts: dict[str, nn.Module], shapes: Shapes, run: RunShape, pixels: Tensor, states: Any = None
) -> tuple[Tensor, dict[int, Tensor]]:
    """What the projector reads, and what the ego tokens read."""
    states = encode(parts, pixels) if states is None else states
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
