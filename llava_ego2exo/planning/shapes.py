"""The sizes of a checkpoint's parts, read from its config files: no weight is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Ego2ExoConfig
from ..errors import Ego2ExoError
from ..host.checkpoint.config import class_key

# LLaVA's name for a class -> transformers' name for the language model in it.
_LANGUAGE = {"llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
_CLIP_LARGE = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "patch_size": 14,
}  # fmt: skip
# Towers that LLaVA's checkpoints name on the hub, for machines without one.
_TOWERS: dict[str, dict[str, Any]] = {
    "google/siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    },
    "openai/clip-vit-large-patch14-336": {**_CLIP_LARGE, "image_size": 336},
    "openai/clip-vit-large-patch14": {**_CLIP_LARGE, "image_size": 224},
}  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """What a LLaVA model is made of: its config.json, and transformers' configs of its parts."""

    llava: Mapping[str, Any]
    language: Any
    tower: Any  # with the layers that LLaVA keeps
    pools: bool  # whether the host pools a video's patches itself (LLaVA-NeXT does, llava-torch does not)

    @property
    def side(self) -> int:
        """Patches of a frame in a row."""
        return self.tower.image_size // self.tower.patch_size

    @property
    def pooled_size(self) -> tuple[int, int]:
        """Rows and columns of a frame in the language model's input: those of `--ego2exo_pool`, or the host's own.

        LLaVA-NeXT pools by 2, whatever `mm_spatial_pool_stride` says.
        """
        size = Ego2ExoConfig(pool=self.llava.get("ego2exo_pool")).pool_size
        if size is not None:
            return size
        bilinear = self.llava.get("mm_spatial_pool_mode", "bilinear") == "bilinear"
        pooled = math.ceil(self.side / 2) if bilinear else self.side // 2
        return (pooled, pooled) if self.pools else (self.side, self.side)

    def visual_tokens(self, frames: int) -> int:
        """How many ordinary visual tokens a video of so many frames has in the language model's input."""
        count = frames * math.prod(self.pooled_size)
        merge = str(self.llava.get("mm_patch_merge_type", "flat"))
        if not self.pools or not merge.startswith("spatial"):
            return count
        newline = self.llava.get("mm_newline_position", "grid")
        lines = {"grid": frames * self.pooled_size[0], "frame": frames, "one_token": int("unpad" in merge)}
        return count + lines.get(newline, 0)

    def summary(self) -> str:
        """The sizes as one line."""
        language, tower = self.language, self.tower
        return (
            f"{language.model_type}, {language.num_hidden_layers} layers of {language.hidden_size}, "
            f"{language.vocab_size} tokens; tower {tower.model_type}, {tower.num_hidden_layers} layers of "
            f"{tower.hidden_size}; {math.prod(self.pooled_size)} visual tokens a frame"
        )


def read_shapes(config: Mapping[str, Any], tower: Mapping[str, Any] | None, pools: bool) -> Shapes:
    """Shapes from config.json of the checkpoint and of its vision tower; None: a tower that is known by name.

    Raises:
        Ego2ExoError: a language model or tower whose sizes are not known.
    """
    from transformers import AutoConfig

    kind, name = class_key(dict(config), "the checkpoint") or config.get("model_type"), config.get("mm_vision_tower")
    if kind not in _LANGUAGE or config.get("add_faster_video"):
        given = f"a checkpoint of the type {kind!r}, with add_faster_video {bool(config.get('add_faster_video'))}"
        raise Ego2ExoError(given, f"without it, {', '.join(_LANGUAGE)}", "measure a few steps of the training itself")
    tower = tower if tower is not None else _TOWERS.get(str(name))
    if tower is None:
        raise Ego2ExoError(
            f"the sizes of the vision tower {name!r} are not known",
            f"a local folder, a tower of the hub's that can be reached, or one of {', '.join(_TOWERS)}",
            "download the tower's config.json, or unset HF_HUB_OFFLINE",
        )
    part = dict(tower.get("vision_config", tower))
    part_kind = part.pop("model_type", "").split("_")[0]
    if part_kind not in ("siglip", "clip"):
        raise Ego2ExoError(f"a vision tower of the type {part_kind!r}", "SigLIP or CLIP", "measure the training itself")
    if part_kind == "siglip":
        part["num_hidden_layers"] -= 1  # LLaVA-NeXT removes the last layer
    sizes = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    language = AutoConfig.for_model(_LANGUAGE[kind], **sizes)
    return Shapes(config, language, AutoConfig.for_model(f"{part_kind}_vision_model", **part), pools)
