"""Samples that cannot be read: refused with all their files, or, where the run allows some, skipped as a pair.

The row of a skipped sample stays in the batch as a short text without a label, so that it trains nothing and all
processes stay in step. It is never replaced by another sample.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...common.files import write_atomic
from ...common.jsonl import json_line
from ...common.processes import Ranks
from ...common.text import shorten_list
from ...config import PREFIX
from ...errors import Ego2ExoError
from ...run_config import ReadingConfig
from ..model.answer_tokens import IGNORE_INDEX
from ..settings import DISTILL
from .losses import LossStats

# In a row and in a batch: which samples were skipped.
SKIPPED = "ego2exo_skipped"
# In a sample whose `video` is the ego view for the time of reading it.
EXO = "ego2exo_exo_video"
FILE = "unreadable.jsonl"
# What is raised for flags or rows that do not fit, not by decoders for files.
_NOT_DECODING = (AttributeError, KeyError, TypeError, NameError, ImportError)
_BLANK = [{"from": "human", "value": "-"}, {"from": "gpt", "value": "-"}]
_IN_WORKER = re.compile(r"\ACaught Ego2ExoError in DataLoader worker.*^\S*Ego2ExoError: (.*)\Z", re.S | re.M)


def files_of(sample: dict[str, Any], data_args: Any) -> dict[str, str]:
    """A sample's files with their folder: `video` and `ego_video`, or `image`."""
    exo = sample.get(EXO, sample.get("video"))
    named = {"image": sample.get("image"), "video": exo, "ego_video": sample.get("ego_video")}
    return {
        name: os.path.join(getattr(data_args, f"{name.split('_')[-1]}_folder", None) or "", str(file))
        for name, file in named.items()
        if file is not None
    }


def unreadable_error(dataset: Any, index: int, error: BaseException | None) -> Ego2ExoError:
    """The refusal of one sample, with exo and ego file."""
    sample = dataset.list_data_dict[index]
    files = ", ".join(f"{name} {path}" for name, path in files_of(sample, dataset.data_args).items())
    reason = error.given if isinstance(error, Ego2ExoError) else f"{type(error).__name__}: {error}".splitlines()[0]
    allowed, remedy = "files that decode", "fix the file"
    if isinstance(error, AttributeError) and error.name == "image_processor":
        reason = "--vision_tower is not given, and LLaVA has no image processor without it"
        allowed, remedy = "--vision_tower where samples have a video or image", "pass the base's mm_vision_tower"
    elif isinstance(error, _NOT_DECODING):
        allowed, remedy = "rows and flags that LLaVA can train", "fix the row or the flags"
    skip = f", or skip some with --{PREFIX}max_bad N" if DISTILL.get() is not None else ""
    refusal = Ego2ExoError(
        f"sample {index} (id {sample.get('id')!r}) cannot be read: {files}: {reason}",
        allowed,
        f"{remedy}, or remove the sample from the training JSON{skip}",
    )
    refusal.reason = reason  # type: ignore[attr-defined]
    return refusal


def skip_unreadable(module: dict[str, Any]) -> dict[str, Any]:
    """LLaVA's data module that skips what cannot be read, where the run allows it; else untouched."""
    dataset = module["train_dataset"]
    if DISTILL.get() is None or not ReadingConfig.from_object(dataset.data_args).max_bad:
        return module
    dataset.__class__ = _skipping(type(dataset))
    module["data_collator"] = _carry_skipped(module["data_collator"])
    return module


def _skipping(base: type) -> type:
    class SkippingDataset(base):  # type: ignore[misc, valid-type]
        """A sample that cannot be read becomes a row that trains nothing."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            try:
                return super().__getitem__(index)
            except Ego2ExoError as error:
                return self._blank(index, getattr(error, "reason", error.given))

        def _blank(self, index: int, reason: str) -> dict[str, Any]:
            sample = self.list_data_dict[index]
            self.list_data_dict[index] = {"id": sample.get("id", index), "conversations": _BLANK, "replay": True}
            try:
                row = super().__getitem__(index)
            finally:
                self.list_data_dict[index] = sample
            row["labels"] = row["labels"].new_full(row["labels"].shape, IGNORE_INDEX)
            files = files_of(sample, self.data_args)
            return {**row, SKIPPED: {"index": index, "id": str(sample.get("id")), **files, "reason": reason}}

    return SkippingDataset


def _carry_skipped(collate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A collator whose batch lists its skipped samples, so that they reach the trainer from any worker."""

    @functools.wraps(collate.__call__)
    def collate_and_list(instances: list[dict[str, Any]]) -> dict[str, Any]:
        skipped = [instance[SKIPPED] for instance in instances if SKIPPED in instance]
        batch = collate([{name: value for name, value in each.items() if name != SKIPPED} for each in instances])
        return {**batch, SKIPPED: skipped} if skipped else batch

    return collate_and_list


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Raise what a worker process died of without the traceback that torch puts around it."""
    try:
        yield
    except Ego2ExoError as error:
        found = _IN_WORKER.search(error.given)
        if found is None:
            raise
        raise Ego2ExoError(found[1]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise Ego2ExoError(
            f"a process that reads samples has died: {str(error).splitlines()[0]}",
            "processes that live as long as the run",
            "check for a lack of memory (dmesg); fewer --dataloader_num_workers or --frames_upbound need less",
        ) from error


class SkipUnreadableMixin:
    """For the distilling trainer. A sample counts once, in however many epochs it is met; a resumed run counts anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_unreadable = ReadingConfig.from_object(getattr(self.train_dataset, "data_args", None)).max_bad
        self.unreadable_file = Path(self.args.output_dir, FILE)
        self.skipped: dict[int, dict[str, Any]] = {}
        self._new_skips: list[dict[str, Any]] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's, of the rows that could be read."""
        found = inputs.pop(SKIPPED, [])
        self._new_skips += found
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.stats.mark_unreadable(len(found))
        return loss

    def check_batch(self, stats: LossStats, clip: bool) -> None:
        """Count what was skipped in a global batch, on all processes, before the optimizer steps.

        Raises:
            Ego2ExoError: more samples than allowed, on every process.
        """
        if stats.unreadable:
            self._count_skipped()
        super().check_batch(stats, clip)

    def _count_skipped(self) -> None:
        known, new, self._new_skips = len(self.skipped), self._new_skips, []
        for samples in Ranks(self.args.process_index, self.args.world_size).gather(new):
            for sample in samples:
                self.skipped.setdefault(sample["index"], sample)
        if len(self.skipped) == known:
            return
        names = []
        for sample in self.skipped.values():
            files = ", ".join(f"{name} {sample[name]}" for name in ("image", "video", "ego_video") if name in sample)
            names.append(f"sample {sample['index']} (id {sample['id']!r}): {files}: {sample['reason']}")
        if self.is_world_process_zero():
            write_atomic(self.unreadable_file, "".join(map(json_line, self.skipped.values())))
        if len(names) > self.max_unreadable:
            raise Ego2ExoError(
                f"{len(names)} samples cannot be read: {shorten_list(names, 10)}",
                f"at most {self.max_unreadable} (--{PREFIX}max_bad)",
                f"fix or remove them ({self.unreadable_file} lists all), or raise --{PREFIX}max_bad",
            )
        of = f"of at most {self.max_unreadable}"
        self.report([f"skipped, {number} {of}: {name}" for number, name in enumerate(names, 1) if number > known])
        self.log({"unreadable": len(names)})

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The host's; then how many were skipped."""
        if self.is_world_process_zero():
            self.unreadable_file.unlink(missing_ok=True)
        with worker_errors():
            result = super().train(*args, **kwargs)
        if self.max_unreadable:
            text = f"{len(self.skipped)} unreadable sample(s) skipped (--{PREFIX}max_bad {self.max_unreadable})"
            self.report([f"{text}; {self.unreadable_file} lists them" if self.skipped else text])
        return result
