"""Whether a run's vision tower fits its ego tokens and its pooling, from the tower's config alone."""

from __future__ import annotations

import contextlib

from ...config import PREFIX, Ego2ExoConfig
from ...errors import Ego2ExoError, refuse
from ..checkpoint.config import read_config
from ..checkpoint.safety import check_tower_code, require_whole_weights
from ..model.projector import require_one_layer
from ..model.vision import check_block
from ..settings import Settings


def check_tower(settings: Settings, flags: Ego2ExoConfig) -> None:
    """Whether the vision tower has the layers that the ego tokens read.

    Raises:
        Ego2ExoError: there is none, or it has not.
    """
    name, s2 = settings["vision_tower"], settings["s2"]
    other = str(name) == "imagebind_huge" or str(name).startswith("open_clip_hub")
    refuse(
        (name is None, "--ego2exo True, and neither --vision_tower nor the base checkpoint names a vision tower",
         "a CLIP, SigLIP or MLCD tower", "pass --vision_tower, as LLaVA needs it to train with images"),
        (s2 or other, f"{'--s2 True' if s2 else f'--vision_tower {name}'}: this tower does not expose the layers of "
         "whole frames", "CLIP, SigLIP, MLCD, hf:", "take another tower"),
    )  # fmt: skip
    check_tower_code(name)
    require_whole_weights(name.removeprefix("hf:"))
    vision = read_config(name.removeprefix("hf:"))
    vision = vision.get("vision_config", vision)
    layers, siglip = vision.get("num_hidden_layers"), "siglip" in str(vision.get("model_type", name))
    if not siglip and str(settings["mm_vision_select_feature"]).startswith("slice"):
        require_one_layer(flags)
    check_block(flags, vision)
    if isinstance(layers, int):
        # LLaVA-NeXT removes SigLIP's last layer after loading it, and takes the last one there is.
        select, readable = settings["mm_vision_select_layer"], layers - siglip
        if flags.block == "encoder" and not siglip and isinstance(select, int):
            readable = select % (layers + 1)
        flags.layer_indices(readable)
        refuse(
            (not siglip and isinstance(select, int) and not -layers - 1 <= select <= layers,
             f"--mm_vision_select_layer {select}", f"{-layers - 1} to {layers}, by the tower's {layers} layers",
             "-2 is what LLaVA's own models take"),
        )  # fmt: skip


def check_pooling(settings: Settings) -> None:
    """`--ego2exo_pool`, in runs with and without ego tokens.

    Raises:
        Ego2ExoError: no grid, one with more rows or columns than the tower has patches a side, or one that this run
            cannot have.
    """
    pool, name, side = settings[f"{PREFIX}pool"], settings["vision_tower"], None
    size = Ego2ExoConfig(pool=pool).pool_size
    if size is None:
        return
    with contextlib.suppress(Ego2ExoError, KeyError, TypeError, ValueError):  # a run without ego tokens may have any
        vision = read_config(name and name.removeprefix("hf:"))
        vision = vision.get("vision_config", vision)
        side = int(vision["image_size"]) // int(vision["patch_size"])
    given, leave = f"--{PREFIX}pool {pool}", f"leave --{PREFIX}pool out"
    newline = str(settings["mm_patch_merge_type"]).startswith("spatial") and settings["mm_newline_position"] == "grid"
    tokens_alone = f"{PREFIX}pool" in settings.given and not settings[f"{PREFIX}visual_tokens"]
    refuse(
        (name is None, f"{given} without --vision_tower, where LLaVA sets up nothing of images", "both",
         "pass --vision_tower"),
        (side and max(size) > side, f"{given}: {name} has {side} x {side} patches", f"1x1 to {side}x{side}", leave),
        (size[0] != size[1] and newline, f"{given} with --mm_newline_position grid, which LLaVA writes for squares",
         "as many rows as columns", f"give a square grid, or {leave}"),
        (settings["add_faster_video"], f"{given} with --add_faster_video True", "each without the other", leave),
        (tokens_alone, f"{given} with --{PREFIX}visual_tokens False: there is nothing to pool",
         "each without the other", leave),
    )  # fmt: skip
