"""The vision tower: sizes of its encoder, and its layers' outputs, captured while LLaVA runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ...method.ego_tokens import EgoAdaptiveTokens
from ...method.encoder_block import TowerLayer, tower_layer

_SUPPORTED = "CLIP, SigLIP, MLCD, or a Hugging Face tower (`hf:...`) whose encoder returns hidden states"


@dataclass(frozen=True)
class TowerFacts:
    """Sizes of a loaded tower's encoder: layers that exist, width D, attention heads.

    `used_layers` are those that run until the states that LLaVA takes; None where it joins several layers' states, or
    in a checkpoint that did not store it.
    """

    num_layers: int
    width: int
    num_heads: int
    used_layers: int | None = None


def inspect_tower(tower: Any) -> TowerFacts:
    """Read the sizes off the loaded encoder, never off LLaVA's own config (SigLIP's has one layer too many).

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
    inner, layers = _encoder(tower)
    config = getattr(inner, "config", None) or getattr(tower.vision_tower, "config", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(config, "num_attention_heads"):
        raise Ego2ExoError(f"the vision tower {name} does not expose its layers", _SUPPORTED, "choose another tower")
    return TowerFacts(len(layers), config.hidden_size, config.num_attention_heads, _used_layers(tower, len(layers)))


def _encoder(tower: Any) -> tuple[Any, Any]:
    """The encoder's model and its list of layers, or whatever stands there."""
    encoder = getattr(tower, "vision_tower", None)
    inner = getattr(encoder, "vision_model", encoder)
    stack = getattr(inner, "encoder", None)
    return inner, getattr(stack, "layers", getattr(stack, "layer", None))


def tower_layers(tower: Any) -> list[TowerLayer]:
    """The parts of each encoder layer, by reference; refused where a layer has others."""
    return [tower_layer(layer) for layer in _encoder(tower)[1]]


def check_grid(flags: Ego2ExoConfig, side: int) -> None:
    """Refuse a grid with more rows or columns than a frame has patches a side."""
    cells = flags.grid_cells
    if cells is not None and max(cells[1:]) > side:
        raise Ego2ExoError(
            f"--ego2exo_grid {'x'.join(map(str, cells))} with a vision tower of {side} patches a side",
            f"at most {side} rows and columns",
            "choose a grid with more cells in time, or none",
        )


def check_block(flags: Ego2ExoConfig, vision: Mapping[str, Any]) -> None:
    """Refuse what the encoder block and start cannot do with a tower, as far as the tower's config shows it.

    Its model is built without memory; one that transformers does not know is checked when it is there.
    """
    from transformers import AutoConfig, AutoModel

    if "encoder" not in (flags.block, flags.init):
        return
    try:
        config = AutoConfig.for_model(**vision)
        with torch.device("meta"):
            layers = _encoder(SimpleNamespace(vision_tower=AutoModel.from_config(config)))[1]
        side = config.image_size // config.patch_size
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    check_grid(flags, side)
    for layer in layers or ():
        tower_layer(layer)


def _used_layers(tower: Any, num_layers: int) -> int | None:
    """Found by asking the tower to choose among states that hold nothing but their number."""
    if not hasattr(tower, "feature_select"):  # LLaVA-NeXT's SigLIP, which takes the last
        return num_layers
    numbered = [torch.full((1, 2, 1), float(number)) for number in range(num_layers + 1)]
    chosen = tower.feature_select(SimpleNamespace(hidden_states=numbered)).unique()
    return int(chosen) if chosen.numel() == 1 else None


def check_states(states: str, tower: Any) -> None:
    """Check that a tower's layers can be offloaded until backward, or recomputed there (`--ego2exo_states`).

    Raises:
        Ego2ExoError: the tower is trained, or recomputation would give other values (dropout).
    """
    if states == "keep":
        return
    if any(parameter.requires_grad for parameter in tower.parameters()):
        raise trained_tower(states, "a trained vision tower")
    encoder = tower.vision_tower
    config = getattr(encoder, "config", None)
    # Attention drops by a function, not by a module, in CLIP, SigLIP and MLCD.
    rates = vars(getattr(config, "vision_config", config) or object).items()
    chances = [f"{name} {p}" for name, p in rates if p and name.endswith(("dropout", "dropout_prob", "drop_path_rate"))]
    chances += [f"{name} {m.p}" for name, m in encoder.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    if states == "recompute" and encoder.training and chances:
        raise Ego2ExoError(
            f"--ego2exo_states recompute with a vision tower that drops at random ({', '.join(chances[:3])})",
            "a tower without dropout",
            "use --ego2exo_states offload, or set its dropout to 0",
        )


def trained_tower(states: str, what: str) -> Ego2ExoError:
    """The error for `--ego2exo_states` other than keep where the tower's own backward needs its layers."""
    return Ego2ExoError(
        f"--ego2exo_states {states} with {what}",
        "a frozen vision tower; backward through a trained one keeps its layers anyway",
        "use --ego2exo_states keep, or freeze the tower",
    )


@dataclass
class Captured:
    """Layer outputs of one or several tower calls, in the order of the frames.

    `layers` are zero-based and ascending; `calls` holds references to each call's outputs by layer, or with `entering`
    to what enters each layer; `inputs` its arguments.
    """

    tower: Any
    layers: tuple[int, ...]
    entering: bool = False
    parts: list[TowerLayer] | None = None  # of every encoder layer, for tokens that pass through them
    calls: list[dict[int, Tensor]] = field(default_factory=list)
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def _keep(self, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        states = getattr(output, "hidden_states", None)
        if states is None or len(states) <= self.layers[-1] + 1:
            raise Ego2ExoError(
                f"{type(self.tower).__name__} returned {0 if states is None else len(states) - 1} layers",
                f"at least {self.layers[-1] + 1}, as --ego2exo_layers needs",
            )
        # hidden_states[0] is the embedding, which enters layer 0; layer l's output is entry l + 1.
        self.calls.append({layer: states[layer + (not self.entering)] for layer in self.layers})
        self.inputs.append((args, kwargs))

    def clear(self) -> None:
        self.calls.clear()
        self.inputs.clear()

    def again(self, chosen: list[tuple[int, int]], total: int) -> Callable[[], Mapping[int, Tensor]]:
        """A function that gives :meth:`frames` again by another run of the encoder on its inputs, without gradients.

        The same numbers, bit for bit, for a frozen encoder without dropout: its batch is the same too.
        """
        tower, inputs = self.tower, list(self.inputs)

        @torch.no_grad()
        def run_again() -> Mapping[int, Tensor]:
            fresh = Captured(tower, self.layers, self.entering)
            for args, kwargs in inputs:
                fresh._keep(tower, args, kwargs, tower.vision_tower(*args, **kwargs))
            return fresh.frames(chosen, total, once=True)

        return run_again

    def frames(self, chosen: list[tuple[int, int]], total: int, once: bool = False) -> Mapping[int, Tensor]:
        """The states of some frames, class token removed.

        Args:
            chosen: (first, last + 1) frame ranges among all frames that went through the tower.
            total: how many frames went through it.
            once: each layer can be taken once, and is not referenced here afterwards.

        Returns:
            layer -> (chosen frames, patches, D), computed on access.

        Raises:
            Ego2ExoError: the tower encoded other pictures than the batch holds, or gave other patches than it has.
        """
        name, patches, layer = type(self.tower).__name__, self.tower.num_patches_per_side**2, self.layers[0]
        encoded = sum(call[layer].shape[0] for call in self.calls)
        if encoded != total:
            raise Ego2ExoError(
                f"{name} encoded {encoded} pictures where the batch has {total} frames",
                "one encoder row a frame",
                "use a tower that encodes whole frames",
            )
        for count in {call[layer].shape[1] for call in self.calls} - {patches, patches + 1}:
            raise Ego2ExoError(
                f"{name} gives {count} states a frame for {patches} patches",
                f"{patches}, or {patches + 1} with a class token",
            )
        return _Frames(self, chosen, total, once)


class _Frames(Mapping[int, Tensor]):
    """Some frames' states by layer; see :meth:`Captured.frames`."""

    def __init__(self, captured: Captured, chosen: list[tuple[int, int]], total: int, once: bool) -> None:
        self.captured, self.chosen, self.total, self.once = captured, chosen, total, once

    def __getitem__(self, layer: int) -> Tensor:
        calls = self.captured.calls
        parts = [call.pop(layer) if self.once else call[layer] for call in calls]
        states = parts[0] if len(parts) == 1 else torch.cat(parts)
        states = states[:, states.shape[1] - self.captured.tower.num_patches_per_side**2 :]
        if [frame for first, last in self.chosen for frame in range(first, last)] == list(range(self.total)):
            return states
        return torch.cat([states[first:last] for first, last in self.chosen])

    def __contains__(self, layer: object) -> bool:
        return all(layer in call for call in self.captured.calls)

    def __iter__(self) -> Iterator[int]:
        return iter(layer for layer in self.captured.layers if layer in self)

    def __len__(self) -> int:
        return len(list(iter(self)))


@contextmanager
def capture(tower: Any, reader: EgoAdaptiveTokens) -> Iterator[Captured]:
    """Keep what `reader` takes of every run of `tower` inside the block.

    The hook sits on the whole encoder: hooks on its layers fire again in backward under gradient
    checkpointing, and would see outputs without gradients.
    """
    # The first layer also where none is read: it shows which pictures the tower has seen.
    captured = Captured(tower, reader.reads or (0,), reader.visits, tower_layers(tower) if reader.visits else None)
    handle = tower.vision_tower.register_forward_hook(captured._keep, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()
        captured.clear()
