"""What the `images` argument holds: videos, images and stand-ins of text rows, and which placeholder takes which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Ego2ExoError

IMAGE_TOKEN_INDEX = -200


@dataclass(frozen=True)
class Item:
    """One entry of `images`: its kind and its frames' range among all frames that the tower sees."""

    kind: str
    first: int
    last: int


@dataclass(frozen=True)
class Slot:
    """One placeholder in the text: batch row, position among the row's unmasked ids, index of its item."""

    row: int
    position: int
    item: int


def list_items(images: Any, modalities: list[str] | None, config: Any) -> list[Item]:
    """Entries of `images` in order.

    Args:
        images: a list of (frames, 3, H, W) or (3, H, W), a (B, frames, 3, H, W) batch, or (B, 3, H, W) pictures.
        modalities: the kind of each entry, as LLaVA-NeXT passes it; None where the host does not say.
        config: the model's config, for the rule without modalities.
    """
    counts = _frame_counts(images)
    pictures = not isinstance(images, list) and images.ndim == 4  # LLaVA encodes these one by one, as images
    items, first = [], 0
    for index, count in enumerate(counts):
        kind = "image" if pictures else _kind(index, count, modalities, config)
        items.append(Item(kind, first, first + count))
        first += count
    return items


def _frame_counts(images: Any) -> list[int]:
    if isinstance(images, list):
        return [1 if image.ndim == 3 else image.shape[0] for image in images]
    return [1] * images.shape[0] if images.ndim == 4 else [images.shape[1]] * images.shape[0]


def _kind(index: int, frames: int, modalities: list[str] | None, config: Any) -> str:
    if modalities is not None:
        return modalities[index] if index < len(modalities) else "image"
    # llava-torch's own callers say nothing: several pictures without tiling can only be a video's frames.
    flat = getattr(config, "mm_patch_merge_type", "flat") == "flat"
    tiled = getattr(config, "image_aspect_ratio", "square") == "anyres"
    return "video" if frames > 1 and flat and not tiled else "image"


def list_slots(rows: list[Tensor], count: int) -> list[Slot]:
    """Which item each placeholder takes, by LLaVA's own counting.

    A row without a placeholder uses up one item; LLaVA-NeXT gives a placeholder too many the previous item.

    Args:
        rows: unmasked token ids of each batch row.
        count: number of items.
    """
    slots, index = [], 0
    for row, ids in enumerate(rows):
        positions = (ids == IMAGE_TOKEN_INDEX).nonzero()[:, 0].tolist()
        for position in positions:
            slots.append(Slot(row, position, index if index < count else index - 1))
            index += 1
        index += not positions
    return [slot for slot in slots if slot.item < count]


def check_visible(slots: list[Slot], items: list[Item], chosen: frozenset[str], visual_tokens: bool) -> None:
    """Without ordinary visual tokens an item that gets no ego tokens would vanish.

    Raises:
        Ego2ExoError: there is such an item.
    """
    lost = sorted({items[slot.item].kind for slot in slots if items[slot.item].kind not in chosen})
    if lost and not visual_tokens:
        raise Ego2ExoError(
            f"--ego2exo_visual_tokens False, and the batch holds {' and '.join(lost)} input that gets no ego tokens",
            f"only {', '.join(sorted(chosen))} input (--ego2exo_modalities)",
            f"add {', '.join(lost)} to --ego2exo_modalities, or set --ego2exo_visual_tokens True",
        )
