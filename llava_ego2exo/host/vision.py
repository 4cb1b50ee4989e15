"""What a LLaVA vision tower is made of, and its layers' outputs as it runs anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import Ego2ExoError

_SUPPORTED = "CLIP, SigLIP, MLCD, or a Hugging Face tower (`hf:...`) whose encoder returns hidden states"


@dataclass(frozen=True)
class TowerFacts:
    """Sizes of a loaded tower's encoder: layers that exist, width D, attention heads."""

    num_layers: int
    width: int
    num_heads: int


def inspect_tower(tower: Any) -> TowerFacts:
    """Read the sizes off the loaded encoder, never off LLaVA's own config (SigLIP's says a layer too many).

    Raises:
        Ego2ExoError: the tower tiles its input or hides its layers.
    """
    name = type(tower).__name__
    if name.endswith("S2"):
        raise Ego2ExoError(
            f"the vision tower {name} runs several scales and tiles an image",
            _SUPPORTED,
            "set --s2 False: ego tokens need the layers of whole frames",
        )
    encoder = getattr(tower, "vision_tower", None)
    inner = getattr(encoder, "vision_model", encoder)
    stack = getattr(inner, "encoder", None)
    layers = getattr(stack, "layers", getattr(stack, "layer", None))
    config = getattr(inner, "config", None) or getattr(encoder, "config", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(config, "num_attention_heads"):
        raise Ego2ExoError(f"the vision tower {name} does not expose its layers", _SUPPORTED, "choose another tower")
    return TowerFacts(len(layers), config.hidden_size, config.num_attention_heads)


@dataclass
class Captured:
    """Layer outputs of one or several tower calls, in the order of the frames."""

    tower: Any
    layers: tuple[int, ...]
    calls: list[dict[int, Tensor]] = field(default_factory=list)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        states = getattr(output, "hidden_states", None)
        if states is None or len(states) <= self.layers[-1] + 1:
            raise Ego2ExoError(
                f"{type(self.tower).__name__} returned {0 if states is None else len(states) - 1} layers",
                f"at least {self.layers[-1] + 1}, as --ego2exo_layers asks",
            )
        # hidden_states[0] is the embedding; layer l's output is entry l + 1. Only references are kept.
        self.calls.append({layer: states[layer + 1] for layer in self.layers})

    def frames(self, chosen: list[tuple[int, int]], total: int) -> dict[int, Tensor]:
        """The states of some frames, class token removed.

        Args:
            chosen: (first, last + 1) frame ranges among all frames that went through the tower.
            total: how many frames went through it.

        Returns:
            layer -> (chosen frames, patches, D).
        """
        return {layer: self._layer(layer, chosen, total) for layer in self.layers}

    def _layer(self, layer: int, chosen: list[tuple[int, int]], total: int) -> Tensor:
        parts = [call[layer] for call in self.calls]
        states = parts[0] if len(parts) == 1 else torch.cat(parts)
        if states.shape[0] != total:
            raise Ego2ExoError(
                f"{type(self.tower).__name__} encoded {states.shape[0]} pictures where the batch has {total} frames",
                "one encoder row a frame",
                "use a tower that encodes whole frames",
            )
        patches = self.tower.num_patches_per_side**2
        if states.shape[1] not in (patches, patches + 1):
            raise Ego2ExoError(
                f"{type(self.tower).__name__} gives {states.shape[1]} states a frame for {patches} patches",
                f"{patches}, or {patches + 1} with a class token",
            )
        states = states[:, states.shape[1] - patches :]
        if chosen == [(0, total)]:
            return states
        return torch.cat([states[first:last] for first, last in chosen])


@contextmanager
def capture(tower: Any, layers: tuple[int, ...]) -> Iterator[Captured]:
    """Keep the layer outputs of every run of `tower` inside the block.

    The hook sits on the whole encoder: hooks on its layers fire again in backward under gradient
    checkpointing, and would see outputs without gradients.
    """
    captured = Captured(tower, layers)
    handle = tower.vision_tower.register_forward_hook(captured._keep)
    try:
        yield captured
    finally:
        handle.remove()
        captured.calls.clear()
