"""One training step of a checkpoint's real shapes on tensors that have no memory: what it would take of a card."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..method.losses import FullTeacher, distillation_sums
from .model import RunShape, build, clip, encode, inputs
from .shapes import Shapes

# CUDA's allocator hands out blocks of multiples of this many bytes.
ALLOCATOR_BLOCK = 512


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
        parts = build(shapes, run)
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


def _step(parts: dict[str, nn.Module], shapes: Shapes, run: RunShape) -> int:
    """Forward and backward; the length of the language model's input."""
    language, known, teacher = parts["language"], None, None
    precision = torch.autocast("cpu", run.dtype) if run.dtype != torch.float32 else contextlib.nullcontext()
    with precision:
        if run.on_policy:
            known = _sampling(parts, shapes, run)
            teacher = FullTeacher(language.get_output_embeddings(), _answer_states(parts, shapes, run))
        embeds = inputs(parts, shapes, run, run.answer, known)
        hidden = language.model(inputs_embeds=embeds, use_cache=False)[0]
        head = language.get_output_embeddings()
        if run.ego is not None:  # the cross-entropy from the answers' states alone
            answers = hidden[:, -run.answer - 1 : -1].flatten(0, 1)
            labels = torch.zeros(answers.shape[0], dtype=torch.long)
            loss = distillation_sums(head, answers, labels, teacher, sampled=run.on_policy)[:2].sum()
            del known
        else:  # LLaVA's from all
            logits = head(hidden).float()[:, :-1].contiguous().flatten(0, 1)
            loss = F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.long))
            del logits  # as in LLaVA, whose backward has their logarithms alone
    loss.backward()
    return embeds.shape[1]


@torch.no_grad()
def _sampling(parts: dict[str, nn.Module], shapes: Shapes, run: RunShape) -> tuple[Tensor, ...] | None:
    """The student's answer, from one pass of clip and prompt; the tower's states where they are kept for the step."""
    language, known = parts["language"], encode(parts, clip(shapes, run))
    training = [module for module in language.modules() if module.training]
    language.eval()  # in training, recomputation leaves no keys and values to keep
    embeds = inputs(parts, shapes, run, 0, known)
    cache = [list(layer) for layer in language.model(inputs_embeds=embeds, use_cache=True).past_key_values]
    for layer in cache:  # as after the answer's last token but one
        for place, part in enumerate(layer):
            layer[place] = torch.cat([part, part.new_empty(*part.shape[:2], run.answer - 1, part.shape[3])], dim=2)
            del part
    token = language.get_input_embeddings()(torch.zeros(run.batch, 1, dtype=torch.long))
    state = language.model(inputs_embeds=token, past_key_values=tuple(map(tuple, cache)), use_cache=True)[0]
    language.get_output_embeddings()(state).float().softmax(-1)
    for module in training:
        module.training = True
    return known if run.ego is not None and run.ego.states == "keep" else None


@torch.no_grad()
def _answer_states(parts: dict[str, nn.Module], shapes: Shapes, run: RunShape) -> Tensor:
    """(answers' tokens, width) of the teacher, which reads another clip of the same length."""
    embeds = inputs(parts, shapes, run, run.answer)
    hidden = parts["language"].model(inputs_embeds=embeds, use_cache=False)[0]
    return hidden[:, -run.answer - 1 : -1].flatten(0, 1).clone()
