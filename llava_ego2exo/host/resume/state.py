"""Where a run stands beside its weights: what transformers' own checkpoints leave out.

transformers finds a resumed run's place from the number of steps and the steps of an epoch. That is the wrong batch
where a global batch reaches over the end of an epoch, and it starts the mean of the logged loss anew. It shuffles an
epoch that is resumed in its middle with random numbers that dropout has not yet moved on.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import Ego2ExoError
from ..checkpoint.safety import only_weights
from ..hooks.install import substituted
from ..settings.context import RUN
from ..training.losses import LossStats
from .checkpoints import UNFINISHED, finish, full_disk


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


def sums_to_save(sums: LossStats) -> dict[str, float]:
    """The sums as plain numbers."""
    return {name: float(value) for name, value in asdict(sums).items()}


# What the trainer `ego2exo` adds to checkpoints: each is whole or not there, and a resumed run is the same run.


def resuming(trainer: type) -> type:
    """A subclass of the distilling trainer."""
    from transformers import TrainerCallback

    class Moments(TrainerCallback):
        """Tells a trainer's progress where a run, an epoch and a step are."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.trainer.begin_run()

        def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.trainer.progress.begin_epoch()

        def on_step_end(self, args: Any, *_args: Any, **_kwargs: Any) -> None:
            ended = self.trainer.accelerator.gradient_state.end_of_dataloader
            self.trainer.flos = float(self.trainer.state.total_flos + self.trainer.current_flos)
            late = str(getattr(args.save_strategy, "value", args.save_strategy)) == "epoch"
            self.trainer.progress.stepped(ended, late and args.gradient_accumulation_steps > 1)

    class ResumingTrainer(trainer):  # type: ignore[misc, valid-type]
        """See the module."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.progress, self.flos = Progress(), 0.0
            self.add_callback(Moments(self))

        def begin_run(self) -> None:
            """Put back what transformers starts anew: the sums behind the logs, and a plain number of steps."""
            stored = self.progress.resumed
            self.progress.begin_run(self.state.global_step)
            self.state.global_step = int(self.state.global_step)
            self._globalstep_last_logged = int(self._globalstep_last_logged)
            if stored is not None:
                self._globalstep_last_logged, self._total_loss_scalar = stored["logged"], stored["total"]
                if self.args.world_size == 1:  # several processes add theirs up when they are logged
                    self.state.total_flos = stored["flos"]
                self.unlogged, self.whole = LossStats(**stored["unlogged"]), LossStats(**stored["whole"])

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            """One small batch; the first of a resumed run brings the loss that was not yet logged."""
            loss = super().training_step(*args, **kwargs)
            self.progress.batch += 1
            self.progress.pending += 1
            carried, self.progress.carried = self.progress.carried, 0.0
            return loss + carried if carried else loss

        def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            self.progress.running = tr_loss
            super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

        def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
            """The host's, written beside its place and moved there when all of it lies on the disk.

            Raises:
                Ego2ExoError: the disk is full, or cannot be written for another reason.
            """
            root = Path(self._get_output_dir(trial))
            part, name = root / UNFINISHED, f"checkpoint-{self.state.global_step}"
            if self.args.should_save:
                shutil.rmtree(part, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            try:
                beside = {"_get_output_dir": lambda trial=None: str(part), "_rotate_checkpoints": lambda *_, **__: None}
                with substituted(self, **beside):
                    result = super()._save_checkpoint(model, trial, *args, **kwargs)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    run = RUN.get()
                    finish(part / name, root / name, {} if run is None else run.identity)
                    part.rmdir()
            except Exception as error:
                refusal = full_disk(str(root / name), error, root)
                shutil.rmtree(part, ignore_errors=True)
                if refusal is None:
                    raise
                raise refusal from error
            if self.args.should_save:
                self._rotate_checkpoints(use_mtime=False, output_dir=str(root))
            return result

        def _save_rng_state(self, output_dir: str) -> None:
            """The host's, as it was behind the last step, and this process's progress."""
            now = random_states() if self.progress.pending and self.progress.random else None
            if now is not None:
                set_random_states(self.progress.random)
            super()._save_rng_state(output_dir)
            if now is not None:
                set_random_states(now)
            if self.progress.known:
                torch.save(self._progress_to_save(), os.path.join(output_dir, self._progress_file))

        @property
        def _progress_file(self) -> str:
            return f"ego2exo_progress_{self.args.process_index}.pt"

        def _progress_to_save(self) -> dict[str, Any]:
            scaler = getattr(self.accelerator, "scaler", None)
            return {
                **self.progress.to_save(),
                "flos": self.flos,
                "logged": int(self._globalstep_last_logged),
                "total": float(self._total_loss_scalar),
                "unlogged": sums_to_save(self.unlogged),
                "whole": sums_to_save(self.whole),
                "scaler": None if scaler is None else scaler.state_dict(),
            }

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            """The host's, and this process's progress where the checkpoint has it."""
            with only_weights():
                super()._load_optimizer_and_scheduler(checkpoint)
                file = None if checkpoint is None else os.path.join(checkpoint, self._progress_file)
                if file is None or not os.path.isfile(file):
                    return
                stored = torch.load(file, map_location="cpu")
            scaler = getattr(self.accelerator, "scaler", None)
            if scaler is not None and stored["scaler"]:
                scaler.load_state_dict(stored["scaler"])
            self.progress.resumed = stored

        def compare_trainer_and_checkpoint_args(self, training_args: Any, trainer_state: Any) -> None:
            """The host's; between reading the state and finding its place, so that it can be told the right one."""
            super().compare_trainer_and_checkpoint_args(training_args, trainer_state)
            stored = self.progress.resumed
            if stored is not None:
                trainer_state.global_step = StepAt(trainer_state.global_step, stored["epoch"], stored["batch"])

        def _load_rng_state(self, checkpoint: str | None) -> None:
            super()._load_rng_state(checkpoint)
            if checkpoint is not None:
                self.progress.restored()

    return ResumingTrainer


def require_resumable(identity: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint that holds weights alone.

    Raises:
        Ego2ExoError: it was written with `--save_only_model True`.
    """
    if identity.get("flags", {}).get("save_only_model"):
        raise Ego2ExoError(
            f"{name} holds weights without the optimizer's state (--save_only_model True) and cannot be resumed",
            "a checkpoint with its optimizer",
            "give another --output_dir, and start from the merged checkpoint if you like",
        )
