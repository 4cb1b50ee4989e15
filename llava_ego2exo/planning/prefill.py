"""What an answer computes before its first token, counted on tensors that have no memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .model import RunShape, build, inputs
from .shapes import Shapes


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


# What torch's counter lacks: its fused attention on a CPU, from shapes.
FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


@dataclass(frozen=True)
class Prefill:
    """Floating-point operations of matrix products and attention, a multiplication and its addition being two.

    Causal attention counts as if it were full, as kernels without a special case compute it.

    Args:
        total: of a clip and a question, up to the scores of the answer's first token.
        tower: those of the vision tower among them.
        ego: those of the ego tokens, Projector_ego included.
        length: of the language model's input, in tokens.
    """

    total: int
    tower: int
    ego: int
    length: int


def prefill(shapes: Shapes, run: RunShape) -> Prefill:
    """Count one answer's, with merged weights in 16 bits; of `run` counts what it says of frames, prompt and tokens."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    run = replace(run, batch=1, bits=16)
    counter = FlopCounterMode(display=False, custom_mapping=FUSED)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        parts = build(shapes, run, adapters=False)
        for part in parts.values():
            part.requires_grad_(False)  # the counter follows what does into backward
        language = parts["language"]
        with counter:
            embeds = inputs(parts, shapes, run, answer=0)
            hidden = language.model(inputs_embeds=embeds, use_cache=True)[0]
            language.get_output_embeddings()(hidden[:, -1:])
    of = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    tower, ego = (of.get(type(parts.get(name)).__name__, 0) for name in ("tower", "ego"))
    return Prefill(of["Global"], tower, ego, embeds.shape[1])
