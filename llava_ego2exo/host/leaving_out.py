"""What the trainer `ego2exo` does about samples that cannot be read: counts them, and stops at one too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.files import write_whole
from ..common.jsonl import json_line
from ..common.processes import Ranks
from ..config import PREFIX, ReadingConfig
from ..errors import Ego2ExoError
from ..runs.listing import listed
from ..video.cache import cache_stats, format_stats
from .bad_samples import DROPPED, workers_told
from .reading import reader_of
from .tally import Sums

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
            write_whole(self.unreadable_file, "".join(map(json_line, self.skipped.values())))
        if len(names) > self.max_unreadable:
            raise Ego2ExoError(
                f"{len(names)} samples cannot be read: {listed(names, 10)}",
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
