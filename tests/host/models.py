"""Tiny LLaVA models in memory, batches for them, and what upstream itself would make of these with ego rows added."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from llava_ego2exo.demo.models import language_sizes, tiny_tower
from llava_ego2exo.host.loader import llava_class
from llava_ego2exo.host.model.vision import tower_layers

SEED = int(os.environ.get("EGO2EXO_TEST_SEED", time.time_ns() % 2**31))  # fresh; shown on failure, set to repeat
VOCABULARY, P, PLACEHOLDER = 96, 3, -200
_FOLDER = tempfile.TemporaryDirectory(prefix="ego2exo-")
_EXTRA = {
    "gemma": {"head_dim": 16},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
    "qwen_moe": {
        "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    },
}  # fmt: skip


def is_next() -> bool:
    from llava_ego2exo.host.hooks.flavour import detect

    return detect() == "next"


@functools.cache
def clip_folder() -> Path:
    torch.manual_seed(SEED)
    return tiny_tower(Path(_FOLDER.name) / "tower")


def build_plain(kind: str = "llama") -> nn.Module:
    """A language model without a tower, as a training run starts from."""
    torch.manual_seed(SEED)
    cls = llava_class(f"llava_{kind}")
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = cls(cls.config_class(**language_sizes(VOCABULARY, **special, **_EXTRA.get(kind, {})))).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def model_args(tower: object = None, **flags) -> SimpleNamespace:
    """What LLaVA's train script hands to `initialize_vision_modules`."""
    values = {
        "vision_tower": str(tower or clip_folder()), "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "pretrain_mm_mlp_adapter": None, "mm_patch_merge_type": "flat", "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None, "add_faster_video": False,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **flags})


def build(
    kind: str = "llama", tower: object = None, config: dict | None = None, ego: bool = True, **flags
) -> nn.Module:
    """A model with tower (None: the tiny CLIP) and projector, attached by `initialize_vision_modules` with `flags`;
    the keys of `config` are set afterwards."""
    model = build_plain(kind)
    torch.manual_seed(SEED + 1)
    flags = {"ego2exo": True, "ego2exo_num_tokens": P, **flags} if ego else flags
    model.get_model().initialize_vision_modules(model_args(tower, **flags))
    pooling = {"mm_spatial_pool_stride": 2, "mm_spatial_pool_mode": "bilinear", "mm_newline_position": "one_token"}
    for key, value in {**pooling, **(config or {})}.items():
        setattr(model.config, key, value)
    if ego:
        with torch.no_grad():  # fresh tokens are so much alike that a wrong order would hardly show
            branch_of(model).reader.tokens.mul_(50.0)
    return model.eval()


def branch_of(model: nn.Module) -> nn.Module:
    return model.get_model().mm_projector.ego_tokens


def ego_grads(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in branch_of(model).named_parameters()}


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Batch:
    """Rows written as text: "." a word, "V" a video (of 2 to 5 frames), "I" a picture, "C" a picture in five crops."""

    def __init__(self, *rows: str, left: bool = False, size: int = 28, frames: int | None = None) -> None:
        print(f"EGO2EXO_TEST_SEED={SEED}")
        self.generator = torch.Generator().manual_seed(SEED)
        self.frames, self.size, self.left = frames, size, left
        self.images: list[torch.Tensor] = []
        self.kinds: list[str] = []
        self.slots: list[list[int]] = []
        self.rows: list[list[int]] = []
        for row in rows:
            words = self._randint(8, VOCABULARY, len(row))
            self.slots.append([self._add(kind) for kind in row if kind != "."])
            self.rows.append([PLACEHOLDER if k != "." else w for k, w in zip(row, words, strict=True)])
            if not self.slots[-1]:
                self._add("I")  # LLaVA's stand-in for a text row
        self.labels = [[-100 if t < 0 or i < 2 else t for i, t in enumerate(row)] for row in self.rows]

    def _randint(self, low: int, high: int, count: int) -> list[int]:
        return torch.randint(low, high, (count,), generator=self.generator).tolist()

    def _add(self, kind: str) -> int:
        frames = {"V": self.frames or self._randint(2, 6, 1)[0], "I": 1, "C": 5}[kind]
        self.images.append(torch.randn(frames, 3, self.size, self.size, generator=self.generator))
        self.kinds.append("video" if kind == "V" else "image")
        return len(self.images) - 1

    @property
    def ids(self) -> torch.Tensor:
        return pad(self.rows, 0, self.left)

    @property
    def mask(self) -> torch.Tensor:
        return pad([[1] * len(row) for row in self.rows], 0, self.left)

    @property
    def media(self) -> dict:
        """`images`, and `modalities` where the host takes them."""
        return {"images": self.images, **({"modalities": self.kinds} if is_next() else {})}

    def call(self, **changes) -> dict:
        """Arguments of a model's forward."""
        labels = pad(self.labels, -100, self.left)
        return {"input_ids": self.ids, "attention_mask": self.mask, "labels": labels, **self.media, **changes}

    def asked(self, **changes) -> dict:
        """Arguments of a model's generate."""
        settings = {"do_sample": False, "max_new_tokens": 6, "temperature": None, "top_p": None}
        return {"inputs": self.ids, "attention_mask": self.mask, **self.media, **settings, **changes}


def pad(rows: list, fill: float, left: bool = False) -> torch.Tensor:
    return pad_sequence([torch.as_tensor(row) for row in rows], True, fill, "left" if left else "right")


def prepare(model: nn.Module, call: dict) -> tuple:
    """The (registered) input preparation."""
    call = {"image_sizes": None, **call}
    names = ("input_ids", "position_ids", "attention_mask", "past_key_values", "labels", "images")
    rest = {name: value for name, value in call.items() if name not in names}
    return model.prepare_inputs_labels_for_multimodal(*[call.get(name) for name in names], **rest)


def upstream_prepare(model: nn.Module, call: dict) -> tuple:
    """LLaVA's own preparation, without any hook, on the model without its ego branch."""
    plain = copy.deepcopy(model)
    projector = plain.get_model().mm_projector
    if hasattr(projector, "ego_tokens"):
        del projector.ego_tokens
        if isinstance(projector, nn.Sequential):
            projector.__class__ = nn.Sequential
    plain.config.tokenizer_model_max_length, plain.config.tokenizer_padding_side = None, "right"
    original = inspect.unwrap(type(model).prepare_inputs_labels_for_multimodal)
    plain.prepare_inputs_labels_for_multimodal = functools.partial(original, plain)
    return prepare(plain, call)


def hidden_states(model: nn.Module, images: list[torch.Tensor], first: int = 1) -> list[torch.Tensor]:
    """Layer outputs of all frames without class token, by a call of the encoder itself; from 0: what enters layers."""
    tower = model.get_vision_tower()
    states = tower.vision_tower(torch.cat(images).to(tower.dtype), output_hidden_states=True).hidden_states[first:]
    return [state[:, -(tower.num_patches_per_side**2) :] for state in states]


@torch.no_grad()
def ego_rows(model: nn.Module, batch: Batch, chosen: list[int]) -> torch.Tensor:
    """(items, P, width) of the chosen items."""
    ends = torch.tensor([0] + [x.shape[0] for x in batch.images]).cumsum(0).tolist()
    branch, tower = branch_of(model), model.get_vision_tower()
    visits = branch.reader.visits
    states = hidden_states(model, batch.images, 0 if visits else 1)
    read = {i: torch.cat([states[i][ends[j] : ends[j + 1]] for j in chosen]) for i in branch.reader.reads}
    return branch(read, [batch.images[j].shape[0] for j in chosen], tower=tower_layers(tower) if visits else None)


@torch.no_grad()
def expected(
    model: nn.Module, batch: Batch, ego: str = "video", visual: bool = True, limit: int | None = None,
    side: str = "right", **extra,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Upstream's own embeddings, labels and mask of a batch, with the ego rows put in by hand.

    Every placeholder gets a marker word behind it, every word a label with its place: the marker's row in upstream's
    result is where the ego rows go, and rows without a label are visual tokens.
    """
    marked, places = [], []
    for row in batch.rows:
        ids, labels = [], []
        for position, token in enumerate(row):
            ids += [token] + [5] * (token < 0)
            labels += [position] + [1000 + sum(t < 0 for t in row[:position])] * (token < 0)
        marked.append(ids)
        places.append(labels)
    call = {"input_ids": pad(marked, 0), "labels": pad(places, -100), **batch.media}
    call["attention_mask"] = pad([[1] * len(row) for row in marked], 0)
    if is_next():
        call["modalities"] = batch.kinds + ["image"] * len(batch.rows)
    _, _, mask, _, embeds, found = upstream_prepare(model, {**call, **extra})
    last = len(batch.images) - 1
    slots = [[min(item, last) for item in row] for row in batch.slots]
    used = sorted({item for row in slots for item in row if batch.kinds[item] in ego.split(",")})
    tokens = ego_rows(model, batch, used) if used else None
    rows, labels = [], []
    for index, keep in enumerate(mask.bool()):
        pieces, marks, pending = [], [], []
        for vector, place in zip(embeds[index][keep], found[index][keep].tolist(), strict=True):
            if place == -100:
                pending.append(vector)
                continue
            item = slots[index][place - 1000] if place >= 1000 else None
            kept = pending if visual or item not in used else []
            own = list(tokens[used.index(item)]) if item in used else []
            front = getattr(model.config, "ego2exo_place", "behind") == "front"
            pieces += own + kept if front else kept + own
            marks += [-100] * (len(kept) + len(own))
            pending = []
            if item is None:
                pieces.append(vector)
                marks.append(batch.labels[index][place])
        rows.append(torch.stack(pieces)[:limit])
        labels.append(marks[:limit])
    left = side == "left"
    return pad(rows, 0.0, left), pad(labels, -100, left), pad([[1] * len(row) for row in labels], 0, left)


def check_rows(
    model: nn.Module, batch: Batch, ego: str = "video", visual: bool = True, sizes: list | None = None, **options
) -> tuple:
    """The registered preparation gives exactly `expected`, and leaves no hook behind."""
    for name, key in (("limit", "tokenizer_model_max_length"), ("side", "tokenizer_padding_side")):
        if name in options:
            setattr(model.config, key, options[name])
    wanted, before = expected(model, batch, ego, visual, **options, image_sizes=sizes), hooks_of(model)
    with torch.no_grad():
        ids, positions, mask, cache, embeds, labels = prepare(model, batch.call(image_sizes=sizes))
    assert ids is None and positions is None and cache is None
    for found, value in zip((embeds, labels, mask), wanted, strict=True):
        assert torch.equal(found, value)
    assert hooks_of(model) == before
    return wanted


def greedy(model: nn.Module, batch: Batch, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens and their logits by whole forwards, without a cache."""
    ids, scores = batch.ids, []
    for _ in range(steps):
        call = {"input_ids": ids, "images": batch.images, "modalities": batch.kinds, "use_cache": False}
        scores.append(model(**call).logits[:, -1])
        ids = torch.cat([ids, scores[-1].argmax(-1)[:, None]], 1)
    return ids[:, -steps:], torch.stack(scores, 1)
