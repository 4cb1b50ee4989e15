"""How many bytes of tensors are alive while code runs: a count that works on the CPU and without any memory at all."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# CUDA's allocator hands out blocks of multiples of this.
_BLOCK = 512


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

    def __init__(self, block: int = _BLOCK) -> None:
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
