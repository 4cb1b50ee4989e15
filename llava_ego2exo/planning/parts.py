"""A LLaVA model and its ego branch built from sizes, as one training run holds them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from ..method.attention import CrossAttention
from ..method.branch import EgoBranch
from ..method.ego_tokens import EgoAdaptiveTokens
from .linears import adapt
from .shapes import Shapes


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
