"""A sample that cannot be read: told with all its files, or, where the run allows some, left out as a pair.

Its row then stays in the batch as a short text without a label, so that it trains nothing and every process goes on in
step. It is never replaced by another sample.
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
from ...config import PREFIX, ReadingConfig
from ...errors import Ego2ExoError
from ...video.cache import cache_stats, format_stats
from ..settings.context import DISTILL
from .losses import Sums
from .reader import reader_of

# In a row and in a batch: which samples were left out.
DROPPED = "ego2exo_dropped"
# In a sample whose `video` is the ego view for the time of reading it.
EXO = "ego2exo_exo_video"
_IGNORE_INDEX = -100
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


def unreadable(dataset: Any, index: int, error: BaseException | None) -> Ego2ExoError:
    """The refusal of one sample, with exo and ego file.

    Args:
        dataset: LLaVA's.
        index: of the sample.
        error: why it cannot be read.
    """
    sample = dataset.list_data_dict[index]
    files = ", ".join(f"{name} {path}" for name, path in files_of(sample, dataset.data_args).items())
    some = f", or let some be left out: --{PREFIX}max_bad N" if DISTILL.get() is not None else ""
    refusal = Ego2ExoError(
        f"sample {index} (id {sample.get('id')!r}) cannot be read: {files}: {_reason(error)}",
        "files that decode",
        f"mend the file, or remove the sample from the training JSON{some}",
    )
    refusal.reason = _reason(error)  # type: ignore[attr-defined]
    return refusal


def _reason(error: BaseException | None) -> str:
    if isinstance(error, Ego2ExoError):
        return error.given
    return f"{type(error).__name__}: {error}".splitlines()[0] if error else "unreadable"


def with_dropping(module: dict[str, Any]) -> dict[str, Any]:
    """LLaVA's data module that leaves out what cannot be read, where the run allows it; else untouched."""
    dataset = module["train_dataset"]
    if DISTILL.get() is None or not ReadingConfig.from_object(dataset.data_args).max_bad:
        return module
    dataset.__class__ = _dropping(type(dataset))
    module["data_collator"] = _carrying(module["data_collator"])
    return module


def _dropping(base: type) -> type:
    class DroppingDataset(base):  # type: ignore[misc, valid-type]
        """A sample that cannot be read becomes a row that trains nothing."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            try:
                return super().__getitem__(index)
            except Ego2ExoError as error:
                return self._left_out(index, error)

        def _left_out(self, index: int, error: Ego2ExoError) -> dict[str, Any]:
            sample = self.list_data_dict[index]
            told = {"index": index, "id": str(sample.get("id")), **files_of(sample, self.data_args)}
            self.list_data_dict[index] = {"id": sample.get("id", index), "conversations": _BLANK, "replay": True}
            try:
                row = super().__getitem__(index)
            finally:
                self.list_data_dict[index] = sample
            row["labels"] = row["labels"].new_full(row["labels"].shape, _IGNORE_INDEX)
            return {**row, DROPPED: {**told, "reason": getattr(error, "reason", error.given)}}

    DroppingDataset.__name__ = base.__name__
    return DroppingDataset


def _carrying(collate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A collator whose batch tells which of its rows were left out: so it reaches the trainer from any worker."""

    @functools.wraps(collate.__call__)
    def collate_and_tell(instances: list[dict[str, Any]]) -> dict[str, Any]:
        dropped = [instance[DROPPED] for instance in instances if DROPPED in instance]
        batch = collate([{name: value for name, value in each.items() if name != DROPPED} for each in instances])
        return {**batch, DROPPED: dropped} if dropped else batch

    return collate_and_tell


@contextlib.contextmanager
def workers_told() -> Iterator[None]:
    """What a process that reads samples died of, without the traceback that torch puts around it."""
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
            "look whether memory ran out (dmesg); fewer --dataloader_num_workers or --frames_upbound need less",
        ) from error


# What the trainer `ego2exo` does about samples that cannot be read: counts them, and stops at one too many.

FILE = "unreadable.jsonl"


class SkipUnreadableMixin:
    """For the distilling trainer. A sample counts once, however many epochs it is met in; a resumed run counts anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_flags = getattr(self.train_dataset, "data_args", None)
        self.max_unreadable = ReadingConfig.from_object(self.data_flags).max_bad
        self.ranks = Ranks(self.args.process_index, self.args.world_size)
        self.unreadable_file = Path(self.args.output_dir, FILE)
        self.skipped: dict[int, dict[str, Any]] = {}
        self._new_skips: list[dict[str, Any]] = []

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's, of the rows that could be read."""
        found = inputs.pop(DROPPED, [])
        self._new_skips += found
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.sums.leave_out(len(found))
        return loss

    def check_batch(self, stats: Sums, clip: bool) -> None:
        """Count what was skipped in a global batch, on all processes, before the optimizer steps.

        Raises:
            Ego2ExoError: more samples than allowed, on every process.
        """
        if stats.unreadable:
            self._count_skipped()
        super().check_batch(stats, clip)

    def _count_skipped(self) -> None:
        known, new = len(self.skipped), self._new_skips
        self._new_skips = []
        for sample in (sample for own in self.ranks.gather(new) for sample in own):
            self.skipped.setdefault(sample["index"], sample)
        names = [_named(sample) for sample in self.skipped.values()]
        if len(names) == known:
            return
        if self.is_world_process_zero():
            write_atomic(self.unreadable_file, "".join(map(json_line, self.skipped.values())))
        if len(names) > self.max_unreadable:
            raise Ego2ExoError(
                f"{len(names)} samples cannot be read: {shorten_list(names, 10)}",
                f"at most {self.max_unreadable} (--{PREFIX}max_bad)",
                f"fix or remove them ({self.unreadable_file} lists all), or raise --{PREFIX}max_bad",
            )
        self.report([f"skipped, {known + n} of at most {self.max_unreadable}: {name}"
                     for n, name in enumerate(names[known:], 1)])  # fmt: skip
        self.log({"unreadable": len(names)})

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The host's; then what was skipped, and what the frame cache did."""
        if self.is_world_process_zero():
            self.unreadable_file.unlink(missing_ok=True)
        with workers_told():
            result = super().train(*args, **kwargs)
        if self.max_unreadable:
            text = f"{len(self.skipped)} unreadable sample(s) skipped (--{PREFIX}max_bad {self.max_unreadable})"
            self.report([f"{text}; {self.unreadable_file} lists them" if self.skipped else text])
        read = reader_of(self.data_flags)
        self.report(format_stats(self.ranks.gather(cache_stats(read))))
        return result


def _named(sample: dict[str, Any]) -> str:
    files = ", ".join(f"{name} {sample[name]}" for name in ("image", "video", "ego_video") if name in sample)
    return f"sample {sample['index']} (id {sample['id']!r}): {files}: {sample['reason']}"
