"""Samples that fill up an epoch's last batch train nothing: several processes then train as one does.

Each process must have as many batches, of as many rows. Where the samples do not suffice for it, accelerate gives the
first ones again, and they would weigh twice.
"""

from __future__ import annotations

from typing import Any

IGNORE_INDEX = -100


def own_rows(samples: int, rows: int, rank: int, world: int) -> int:
    """How many of the rows of a process's last batch of an epoch are no repeated ones; they stand in front.

    Args:
        samples: of the data set.
        rows: of the batch, the same on each process.
        rank: the process.
        world: how many processes there are.
    """
    left = samples % (rows * world) or rows * world
    return min(max(left - rank * rows, 0), rows)


def mask_repeats(inputs: dict[str, Any], own: int) -> int:
    """Take everything to learn from a batch's rows behind the first `own`; returns how many rows these are."""
    labels = inputs["labels"]
    if own >= len(labels):
        return 0
    inputs["labels"] = labels.clone()
    inputs["labels"][own:] = IGNORE_INDEX
    teacher = inputs.get("teacher")
    if teacher is not None and "turns" in teacher:  # stored answers would be looked for in vain, and counted as lost
        kept = [index for index, row in enumerate(teacher["rows"]) if row < own]
        inputs["teacher"] = {name: [values[index] for index in kept] for name, values in teacher.items()}
        if not kept:
            del inputs["teacher"]
    return len(labels) - own


def counting_once(trainer: type) -> type:
    """A subclass of the distilling trainer."""
    from transformers import Trainer

    # There several batches are fetched ahead, so that the last one is not known as such.
    ahead = hasattr(Trainer, "get_batch_samples")

    class CountingOnceTrainer(trainer):  # type: ignore[misc, valid-type]
        """See the module."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if ahead and self._fills_up:
                self._tell(["samples that fill up an epoch's last batch count twice with this transformers"])

        @property
        def _fills_up(self) -> bool:
            several = self.args.world_size > 1 and not self.args.dataloader_drop_last
            return several and getattr(self.accelerator, "even_batches", True)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """The host's, of the rows that are no repeated ones."""
            repeated = 0
            if model.training and not ahead and self._fills_up and self.accelerator.gradient_state.end_of_dataloader:
                rows = len(inputs["labels"])
                own = own_rows(len(self.train_dataset), rows, self.args.process_index, self.args.world_size)
                repeated = mask_repeats(inputs, own)
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            self.sums.leave_out_repeats(repeated)
            return loss

    return CountingOnceTrainer
