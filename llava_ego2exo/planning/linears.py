"""Linear layers as a (Q)LoRA run has them, in what they take of memory: frozen, in 4 bits or not, with an adapter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
