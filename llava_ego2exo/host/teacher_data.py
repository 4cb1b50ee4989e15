"""The teacher's part of a batch: the same samples with the ego clip, or stored logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..config import DistillConfig
from .alignment import beginnings
from .bad_samples import EXO
from .context import DISTILL
from .stored_logits import read_logits


def with_teacher(module: dict[str, Any]) -> dict[str, Any]:
    """LLaVA's data module with the teacher's part, where the run has a KL; untouched where it has none."""
    config = DISTILL.get()
    if config is None or not config.on:
        return module
    dataset = module["train_dataset"]
    dataset.__class__ = _taught(type(dataset), config)
    module["data_collator"] = _collating(module["data_collator"], config)
    return module


def has_teacher(sample: dict[str, Any]) -> bool:
    """Whether a sample gets a KL: general data that is replayed against forgetting does not."""
    return not sample.get("replay", False)


def _taught(base: type, config: DistillConfig) -> type:
    class TaughtDataset(base):  # type: ignore[misc, valid-type]
        """Each sample carries what its teacher needs."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            item, sample = super().__getitem__(index), self.list_data_dict[index]
            if not has_teacher(sample):
                return item
            if config.kind == "cached":
                return {**item, "teacher": [_turn(config, key, self.tokenizer) for key in sample["answer_keys"]]}
            self.list_data_dict[index] = {**sample, "video": sample["ego_video"], EXO: sample["video"]}
            try:
                return {**item, "teacher": super().__getitem__(index)}
            finally:
                self.list_data_dict[index] = sample

    TaughtDataset.__name__ = base.__name__
    return TaughtDataset


def _turn(config: DistillConfig, key: str, tokenizer: Any) -> dict[str, Any]:
    import torch

    arrays = {name: torch.from_numpy(value) for name, value in read_logits(str(config.answers), key).items()}
    return {**arrays, "beginnings": beginnings(arrays["tokens"].tolist(), tokenizer)}


def _collating(collate: Callable[..., dict[str, Any]], config: DistillConfig) -> Callable[..., dict[str, Any]]:
    """The host's collator for both parts.

    `batch["teacher"]` is absent where no row has a teacher; `rows` in it are the student's rows of the teacher's.
    """

    @functools.wraps(collate.__call__)
    def collate_both(instances: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate([{name: value for name, value in each.items() if name != "teacher"} for each in instances])
        rows = [row for row, instance in enumerate(instances) if "teacher" in instance]
        taught = [instances[row]["teacher"] for row in rows]
        if rows:
            batch["teacher"] = {"rows": rows, **({"turns": taught} if config.kind == "cached" else collate(taught))}
        return batch

    return collate_both
