"""Where a run stands beside its weights: what transformers' own checkpoints leave out.

transformers finds a resumed run's place from the number of steps and the steps of an epoch. That is the wrong batch
where a global batch reaches over the end of an epoch, and it starts the mean of the logged loss anew. It shuffles an
epoch that is resumed in its middle with random numbers that dropout has not yet moved on.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .tally import Sums


@dataclass
class Reached:
    """What the last optimizer step has left behind.

    Args:
        epoch: the epoch that the next batch is of, from 0.
        batch: how many batches of it are done.
        order: torch's random state when that epoch began, from which its order of samples comes.
    """

    epoch: int = 0
    batch: int = 0
    order: Tensor | None = None


class Progress:
    """Counts batches, and keeps what a resumed run needs to be the same run."""

    def __init__(self) -> None:
        self.epoch, self.batch, self.pending, self.known = -1, 0, 0, True
        self.order: Tensor | None = None
        self.reached = Reached()
        self.resumed: dict[str, Any] | None = None
        self.running: Tensor | None = None
        self.carried: float = 0.0
        self.random: dict[str, Any] | None = None

    def begin_run(self, steps: int) -> None:
        """A training loop begins, behind a checkpoint if one was read.

        Args:
            steps: that are done.
        """
        stored = self.resumed or {}
        # Behind a checkpoint that does not tell its place there is none to keep.
        self.known = bool(stored) or not steps
        self.epoch, self.batch, self.pending = stored.get("epoch", 0) - 1, 0, 0
        self.reached = Reached(stored.get("epoch", 0), stored.get("batch", 0), stored.get("order"))
        self.carried = stored.get("running", 0.0)

    def begin_epoch(self) -> None:
        """An epoch begins; one that is resumed in its middle shuffles as it did the first time."""
        self.epoch, self.batch = self.epoch + 1, 0
        if self.resumed is not None and self.reached.batch:
            self.batch = self.reached.batch
            torch.set_rng_state(self.reached.order)
        self.resumed = None
        self.order = torch.get_rng_state()

    def restored(self) -> None:
        """Random states were loaded; at the beginning of an epoch they are what its order comes from."""
        if not self.batch:
            self.order = torch.get_rng_state()

    def stepped(self, ended: bool, keep_random: bool) -> None:
        """The optimizer has stepped.

        Args:
            ended: with the last batch of the epoch.
            keep_random: remember the random states, for a checkpoint that is written when later batches have used them.
        """
        self.pending = 0
        self.reached = Reached(self.epoch + 1) if ended else Reached(self.epoch, self.batch, self.order)
        self.random = random_states() if keep_random else None

    def to_save(self) -> dict[str, Any]:
        """As a file keeps it: numbers and tensors alone."""
        running = 0.0 if self.running is None else float(self.running)
        return {**asdict(self.reached), "running": running}


class StepAt(int):
    """A number of steps that answers transformers' `// steps of an epoch` and `% steps of an epoch` with what was.

    Args:
        step: the number.
        epoch: epochs that are done.
        batches: batches of the next one that are done.
    """

    epoch: int
    batches: int

    def __new__(cls, step: int, epoch: int, batches: int) -> StepAt:
        made = super().__new__(cls, step)
        made.epoch, made.batches = epoch, batches
        return made

    def __floordiv__(self, _other: Any) -> int:
        return self.epoch

    def __mod__(self, _other: Any) -> int:
        return _Batches(self.batches)


class _Batches(int):
    """Batches where transformers expects steps, which it multiplies by the batches of a step."""

    def __mul__(self, _accumulation: Any) -> int:
        return int(self)


def random_states() -> dict[str, Any]:
    """All random states of this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """Put them back."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state_all(states["cuda"])


def sums_to_save(sums: Sums) -> dict[str, float]:
    """Sums as numbers."""
    return {name: float(value) for name, value in asdict(sums).items()}
