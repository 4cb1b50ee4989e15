"""What backward needs of an encoder layer, in the host's memory until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def offloaded(states: Tensor) -> Iterator[None]:
    """Inside the block, what autograd keeps that is as large as these states goes to the host's memory.

    That is the states themselves or their cast, and K and V where a path makes them; never a parameter. A storage
    goes once, however many tensors of it are kept, and comes back once. On a CPU it is where it should be.

    Args:
        states: (frames, patches, D), the encoder layer that is read inside the block.
    """
    # By address; with each the tensor, which holds its storage: an address must not be used again meanwhile.
    gone: dict[int, tuple[_Away, Tensor]] = {}
    least = states.numel()

    def pack(tensor: Tensor) -> Tensor | Callable[[], Tensor]:
        storage = tensor.untyped_storage()
        if storage.nbytes() < least * tensor.element_size() or not _is_elsewhere(tensor):
            return tensor
        if isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            return tensor
        if storage.data_ptr() not in gone:
            gone[storage.data_ptr()] = (_Away(tensor), tensor.detach())
        away, _ = gone[storage.data_ptr()]
        away.kept += 1
        place = tensor.size(), tensor.stride(), tensor.storage_offset()
        return lambda: away.back().as_strided(*place)

    def unpack(kept: Tensor | Callable[[], Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept()

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        gone.clear()  # autograd keeps the hooks, and with them this dictionary, until backward


def _is_elsewhere(tensor: Tensor) -> bool:
    """Whether a tensor lies in another memory than the host's."""
    return tensor.device.type != "cpu"


class _Away:
    """One storage, copied to the host; back on its device while its tensors are used."""

    def __init__(self, tensor: Tensor) -> None:
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
        self.device = whole.device
        # Pinned memory lets the copy run beside what the device computes.
        self.host = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=whole.is_cuda)
        self.host.copy_(whole, non_blocking=True)
        self.kept = self.used = 0
        self._back: Tensor | None = None

    def back(self) -> Tensor:
        if self._back is None:
            self._back = torch.empty_like(self.host, device=self.device, pin_memory=False)
            self._back.copy_(self.host, non_blocking=True)
        back, self.used = self._back, self.used + 1
        if self.used == self.kept:  # the host's copy stays, for a graph that is used twice
            self._back, self.used = None, 0
        return back
