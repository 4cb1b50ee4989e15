"""Ego tokens into the language model's input, behind their video's visual tokens or in front, by LLaVA's own splicing.

`prepare_inputs_labels_for_multimodal` is called as it is, on ids into which each video has got P more: unique
negative numbers below every id LLaVA knows. A hook on the embedding gives these rows their ego tokens.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...config import Ego2ExoConfig
from ...errors import Ego2ExoError
from ...method.ego_tokens import EgoBranch
from ..fixes.model_classes import bind, stashed_modalities
from ..hooks.install import substituted
from .answer_tokens import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from .inspection import tokens_are_off
from .pooling import pooled_videos
from .projector import ego_branch
from .shared_encoding import encoded_ranges
from .vision import Captured, capture, check_states

FIRST_ID = -201  # of the first ego token; the others go down from there


@dataclass(frozen=True)
class VisualInput:
    """One entry of `images`: its kind and its frames' range among all frames that the tower sees."""

    kind: str
    first: int
    last: int


@dataclass(frozen=True)
class Placeholder:
    """One placeholder in the text: batch row, position among the row's unmasked ids, index of its visual input."""

    row: int
    position: int
    entry: int


def list_inputs(images: Any, modalities: list[str] | None, config: Any) -> list[VisualInput]:
    """Entries of a list of (frames, 3, H, W) or (3, H, W), a (B, frames, 3, H, W) batch, or (B, 3, H, W) pictures.

    `modalities` has the kind of each entry, as LLaVA-NeXT passes it; None where the host passes none.
    """
    pictures = not isinstance(images, list) and images.ndim == 4  # LLaVA encodes these one by one, as images
    counts = [1] * len(images) if pictures else [1 if image.ndim == 3 else image.shape[0] for image in images]
    inputs, first = [], 0
    for index, count in enumerate(counts):
        kind = "image" if pictures else _kind(index, count, modalities, config)
        inputs.append(VisualInput(kind, first, first + count))
        first += count
    return inputs


def _kind(index: int, frames: int, modalities: list[str] | None, config: Any) -> str:
    if modalities is not None:
        return modalities[index] if index < len(modalities) else "image"
    # llava-torch's own callers pass none: several pictures without tiling can only be a video's frames.
    flat = getattr(config, "mm_patch_merge_type", "flat") == "flat"
    tiled = getattr(config, "image_aspect_ratio", "square") == "anyres"
    return "video" if frames > 1 and flat and not tiled else "image"


def list_placeholders(rows: list[Tensor], count: int) -> list[Placeholder]:
    """Which of `count` visual inputs each placeholder takes, by LLaVA's own counting; `rows` are unmasked token ids.

    A row without a placeholder uses up one input; LLaVA-NeXT gives a surplus placeholder the previous input.
    """
    placeholders, index = [], 0
    for row, ids in enumerate(rows):
        positions = (ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist()
        for position in positions:
            placeholders.append(Placeholder(row, position, index if index < count else index - 1))
            index += 1
        index += not positions
    return [placeholder for placeholder in placeholders if placeholder.entry < count]


def check_visible(
    placeholders: list[Placeholder], inputs: list[VisualInput], chosen: frozenset[str], visual_tokens: bool
) -> None:
    """Without ordinary visual tokens, refuse an input that gets no ego tokens: it would vanish."""
    lost = sorted({inputs[placeholder.entry].kind for placeholder in placeholders} - chosen)
    if lost and not visual_tokens:
        raise Ego2ExoError(
            "without ordinary visual tokens (--ego2exo_visual_tokens False, --ego2exo_bottleneck) the batch holds "
            f"{' and '.join(lost)} input that gets no ego tokens",
            f"only {', '.join(sorted(chosen))} input (--ego2exo_modalities)",
            f"add {', '.join(lost)} to --ego2exo_modalities, or pass the ordinary visual tokens",
        )


def wrap_prepare(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA's input preparation with ego tokens where the projector has them, and videos pooled by `--ego2exo_pool`.

    Models with neither pass through.
    """
    signature = inspect.signature(original)

    @functools.wraps(original)
    def prepare_inputs_labels_for_multimodal(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = bind(signature, self, args, kwargs)
        call = bound.arguments
        branch = ego_branch(getattr(self.get_model(), "mm_projector", None))
        idle = call["images"] is None or self.get_vision_tower() is None or call["input_ids"].shape[1] == 1
        plain, pooled = branch is None or tokens_are_off(), getattr(self.config, "ego2exo_pool", None) is not None
        if idle or (plain and not pooled):
            return original(self, *args, **kwargs)
        inputs = _inputs(self, call)
        with contextlib.ExitStack() as stack:
            stack.enter_context(pooled_videos(self, [item.kind for item in inputs]))
            if plain:
                return original(self, *args, **kwargs)
            batch = _read(self, call, inputs, branch.reader.num_tokens)
            had_mask = call["attention_mask"] is not None
            _expand(call, batch)
            if not batch.flags.visual_tokens:
                stack.enter_context(substituted(self, encode_images=functools.partial(_encode_unseen, self)))
            tokens = _tokens(stack, self.get_vision_tower(), branch, batch)
            if tokens is not None:
                stack.enter_context(_fill(self.get_model().get_input_embeddings(), tokens))
            result = original(*bound.args, **bound.kwargs)
        return result if had_mask else (*result[:2], None, *result[3:])

    return prepare_inputs_labels_for_multimodal


@dataclass(frozen=True)
class Batch:
    """One call's rows without padding, its visual inputs, and the placeholders whose input gets ego tokens."""

    rows: list[Tensor]
    labels: list[Tensor] | None
    inputs: list[VisualInput]
    placeholders: list[Placeholder]
    num_tokens: int
    flags: Ego2ExoConfig

    @property
    def used(self) -> list[int]:
        """Indices of inputs with ego tokens, each once, ascending."""
        return sorted({placeholder.entry for placeholder in self.placeholders})


def _inputs(model: Any, call: dict[str, Any]) -> list[VisualInput]:
    modalities = call.get("modalities", stashed_modalities())
    modalities = [modalities] if isinstance(modalities, str) else modalities
    return list_inputs(call["images"], modalities, model.config)


def _read(model: Any, call: dict[str, Any], inputs: list[VisualInput], num_tokens: int) -> Batch:
    flags = Ego2ExoConfig.from_object(model.config)
    ids, mask = call["input_ids"], call["attention_mask"]
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    rows = [row[keep] for row, keep in zip(ids, mask, strict=True)]
    labels = call["labels"]
    labels = None if labels is None else [row[keep] for row, keep in zip(labels, mask, strict=True)]
    placeholders = list_placeholders(rows, len(inputs))
    check_visible(placeholders, inputs, flags.modality_set, flags.visual_tokens)
    placeholders = [placeholder for placeholder in placeholders if inputs[placeholder.entry].kind in flags.modality_set]
    return Batch(rows, labels, inputs, placeholders, num_tokens, flags)


def _expand(call: dict[str, Any], batch: Batch) -> None:
    """Put P ids behind each placeholder, in front of it or, without visual tokens, in its place; pad the rows again."""
    if not batch.placeholders:
        return
    mask = call["attention_mask"]
    ids = [_insert(row, index, batch, ego_ids=True) for index, row in enumerate(batch.rows)]
    call["input_ids"] = nn.utils.rnn.pad_sequence(ids, batch_first=True)
    kept = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    call["attention_mask"] = kept.to(torch.bool if mask is None else mask.dtype)
    if batch.labels is not None:
        labels = [_insert(row, index, batch, ego_ids=False) for index, row in enumerate(batch.labels)]
        call["labels"] = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)


def _insert(row: Tensor, index: int, batch: Batch, ego_ids: bool) -> Tensor:
    pieces, last = [], 0
    for placeholder in (placeholder for placeholder in batch.placeholders if placeholder.row == index):
        start = FIRST_ID - batch.used.index(placeholder.entry) * batch.num_tokens
        new = torch.arange(start, start - batch.num_tokens, -1, dtype=row.dtype, device=row.device)
        here, flags = placeholder.position, batch.flags
        ordinary = row[here : here + 1] if flags.visual_tokens else row[:0]
        added = [ordinary, new if ego_ids else new.fill_(IGNORE_INDEX)]
        pieces += [row[last:here], *(added if flags.place == "behind" else reversed(added))]
        last = here + 1
    return torch.cat([*pieces, row[last:]])


def _tokens(stack: contextlib.ExitStack, tower: Any, branch: EgoBranch, batch: Batch) -> _Tokens | None:
    """What makes the batch's ego tokens; the tower's layers are kept only where some input gets them.

    Without any there is nothing to do in inference, and in training only to tie the branch to the graph.
    """
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in branch.parameters())
    if not batch.placeholders:
        return _Tokens(branch, None, batch) if trained else None
    if trained:
        check_states(batch.flags.states, tower)
    captured = stack.enter_context(capture(tower, branch.reader))
    return _Tokens(branch, captured, batch, batch.flags.states if trained else None)


class _Tokens:
    """The batch's ego tokens, made once the tower has run: at the first embedding call.

    `captured` is None where no input gets tokens, `states` (`--ego2exo_states`) where there will be no backward.
    """

    def __init__(self, branch: EgoBranch, captured: Captured | None, batch: Batch, states: str | None = None) -> None:
        self.branch, self.captured, self.batch, self.states = branch, captured, batch, states
        self._made: Tensor | None = None

    def rows(self) -> Tensor:
        """(videos * P, LLM width); (0, LLM width) with every parameter in the graph where no input gets tokens."""
        if self._made is None:
            self._made = self.branch.unused() if self.captured is None else self._read(self.captured)
        return self._made

    def _read(self, captured: Captured) -> Tensor:
        chosen = [self.batch.inputs[index] for index in self.batch.used]
        ranges = [(item.first, item.last) for item in chosen]
        ranges, total, index = encoded_ranges(self.batch.used, ranges, self.batch.inputs[-1].last)
        made = self.branch(
            captured.frames(ranges, total, once=self.states is not None),
            [last - first for first, last in ranges],
            offload=self.states == "offload",
            again=captured.again(ranges, total) if self.states == "recompute" else None,
            tower=captured.parts,
        )
        captured.clear()
        return (made if index is None else made[index]).flatten(0, 1)

    @property
    def wanted(self) -> bool:
        """Without inputs only the first call matters: it ties the branch to the graph."""
        return self.captured is not None or self._made is None


@contextlib.contextmanager
def _fill(embedding: nn.Module, tokens: _Tokens) -> Any:
    """Inside the block the embedding knows the ego tokens' ids.

    Unique ids, not a count of calls, decide which token goes where. The scatter is out of place because under
    gradient checkpointing a hook of LLaVA's may have made the embedding's output a leaf.
    """
    pending: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        pending.append(args[0])
        return (args[0].masked_fill(args[0] <= FIRST_ID, 0), *args[1:])

    def after(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        ids = pending.pop()
        if not tokens.wanted:
            return output
        rows, is_ego = tokens.rows(), ids <= FIRST_ID
        if not rows.shape[0]:
            return torch.cat([output, rows.to(output)])
        return output.masked_scatter(is_ego[..., None], rows[FIRST_ID - ids[is_ego]].to(output))

    handles = [embedding.register_forward_pre_hook(before), embedding.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encode_unseen(model: Any, images: Tensor) -> Tensor:
    """Run the tower for its layers alone; what LLaVA then splices is dropped, so one patch is projected, not all.

    The one patch keeps the projector in the graph (zero gradient), as distributed training needs.
    """
    features = model.get_vision_tower()(images)
    one = model.get_model().mm_projector(features[:1, :1])
    return one.expand(features.shape[0], features.shape[1], -1)
