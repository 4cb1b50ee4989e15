"""What transformers' own checkpoints leave out, so that a resumed run is the same run.

transformers finds a resumed run's place from the number of steps and the steps of an epoch. That is the wrong batch
where a global batch reaches over the end of an epoch, and it starts the mean of the logged loss from 0. It shuffles an
epoch that is resumed in its middle with random numbers that dropout has not yet moved on.
"""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from ..checkpoint.safety import only_weights
from ..hooks.install import substituted
from ..settings import RUN
from ..training.losses import LossStats
from .checkpoints import UNFINISHED, commit, full_disk


@dataclass
class TrainingPosition:
    """Where the last optimizer step has left a run.

    Args:
        epoch: the epoch that the next batch is of, from 0.
        batch: how many batches of it are done.
        order: torch's random state when that epoch began, from which its order of samples comes.
    """

    epoch: int = 0
    batch: int = 0
    order: Tensor | None = None


class ResumedStep(int):
    """A number of steps from which transformers' loop computes the exact position in place of its approximation.

    The loop takes `// steps of an epoch` for the epoch, and `% steps of an epoch` times the batches of a step for the
    batches to skip; it has no other place to set the two. Where all steps of a run are done it would train one more;
    it trains none in an epoch behind the last.
    """

    position: TrainingPosition
    done: int = 0  # the run's steps, where no more are to be trained

    def __floordiv__(self, steps: int) -> int:
        return -(-self.done // steps) if self.done else self.position.epoch

    def __mod__(self, _steps: Any) -> ResumedStep:
        return ResumedStep(self.position.batch)

    def __mul__(self, _batches: Any) -> int:
        return int(self)


class PositionTracker(TrainerCallback):
    """Counts batches, and keeps what a resumed run needs to be the same run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.epoch, self.batch, self.pending, self.known = -1, 0, 0, True
        self.order: Tensor | None = None
        self.reached = TrainingPosition()
        self.resumed: dict[str, Any] | None = None
        self.running: Tensor | None = None
        self.carried, self.flos = 0.0, 0.0
        self.random: dict[str, Any] | None = None

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Restore what transformers resets: the sums behind the logs, and a plain number of steps."""
        trainer, stored = self.trainer, self.resumed or {}
        trainer.steps.start_run()
        if getattr(trainer.state.global_step, "done", 0):
            trainer.report([f"all steps are done already ({int(trainer.state.global_step)}): nothing is trained"])
        trainer.stats = LossStats()
        # A checkpoint without a stored position gives no position to keep.
        self.known = bool(stored) or not trainer.state.global_step
        self.reached = TrainingPosition(stored.get("epoch", 0), stored.get("batch", 0), stored.get("order"))
        self.epoch, self.batch, self.pending = self.reached.epoch - 1, 0, 0
        self.carried = stored.get("running", 0.0)
        trainer.state.global_step = int(trainer.state.global_step)
        trainer._globalstep_last_logged = int(trainer._globalstep_last_logged)
        if stored:
            trainer._globalstep_last_logged, trainer._total_loss_scalar = stored["logged"], stored["total"]
            if trainer.args.world_size == 1:  # several processes add theirs up when they are logged
                trainer.state.total_flos = stored["flos"]
            trainer.unlogged, trainer.whole = _stats(stored["unlogged"]), _stats(stored["whole"])

    def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """An epoch that is resumed in its middle shuffles as it did the first time."""
        self.trainer.steps.start_epoch()
        self.epoch, self.batch = self.epoch + 1, 0
        if self.resumed is not None and self.reached.batch:
            self.batch = self.reached.batch
            torch.set_rng_state(self.reached.order)
        self.resumed = None
        self.order = torch.get_rng_state()

    def on_step_end(self, args: Any, *_args: Any, **_kwargs: Any) -> None:
        """The optimizer has stepped."""
        self.pending = 0
        self.flos = float(self.trainer.state.total_flos + self.trainer.current_flos)
        if self.trainer.accelerator.gradient_state.end_of_dataloader:
            self.reached = TrainingPosition(self.epoch + 1)
        else:
            self.reached = TrainingPosition(self.epoch, self.batch, self.order)
        # A checkpoint of a whole epoch is written when later batches have used random numbers.
        late = str(getattr(args.save_strategy, "value", args.save_strategy)) == "epoch"
        self.random = random_states() if late and args.gradient_accumulation_steps > 1 else None


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


def _plain(stats: LossStats) -> dict[str, float]:
    return {name: float(value) for name, value in asdict(stats).items()}


def _stats(stored: dict[str, float]) -> LossStats:
    """As far as this version knows them."""
    return LossStats(**{field.name: stored.get(field.name, 0.0) for field in fields(LossStats)})


class ResumeMixin:
    """Before a trainer with :class:`~..trainer.DistillingMixin`: whole checkpoints, and runs that resume exactly."""

    total_steps = 0  # of the run, once its scheduler is made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tracker = PositionTracker(self)
        self.add_callback(self.tracker)

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The host's, called with the run's number of steps before a checkpoint is read."""
        self.total_steps = num_training_steps
        return super().create_scheduler(num_training_steps, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One small batch; the first of a resumed run brings the loss that was not yet logged."""
        loss = super().training_step(*args, **kwargs)
        self.tracker.batch += 1
        self.tracker.pending += 1
        carried, self.tracker.carried = self.tracker.carried, 0.0
        return loss + carried if carried else loss

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.tracker.running = tr_loss
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's, written beside its place and moved there when all of it is on the disk.

        Raises:
            Ego2ExoError: the disk is full.
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
                commit(part / name, root / name, {} if run is None else run.signature)
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
        """The host's, as it was after the last step, and this process's position."""
        now = random_states() if self.tracker.pending and self.tracker.random else None
        if now is not None:
            set_random_states(self.tracker.random)
        super()._save_rng_state(output_dir)
        if now is not None:
            set_random_states(now)
        if not self.tracker.known:
            return
        scaler, running = getattr(self.accelerator, "scaler", None), self.tracker.running
        stored = {
            **asdict(self.tracker.reached),
            "running": 0.0 if running is None else float(running),
            "flos": self.tracker.flos,
            "logged": int(self._globalstep_last_logged),
            "total": float(self._total_loss_scalar),
            "unlogged": _plain(self.unlogged),
            "whole": _plain(self.whole),
            "scaler": None if scaler is None else scaler.state_dict(),
        }  # numbers and tensors alone: such a file is read without running code
        torch.save(stored, os.path.join(output_dir, self._position_file))

    @property
    def _position_file(self) -> str:
        return f"ego2exo_position_{self.args.process_index}.pt"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The host's, and this process's position where the checkpoint has it."""
        with only_weights():
            super()._load_optimizer_and_scheduler(checkpoint)
            file = None if checkpoint is None else os.path.join(checkpoint, self._position_file)
            if file is None or not os.path.isfile(file):
                return
            stored = torch.load(file, map_location="cpu")
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and stored["scaler"]:
            scaler.load_state_dict(stored["scaler"])
        self.tracker.resumed = stored

    def compare_trainer_and_checkpoint_args(self, training_args: Any, trainer_state: Any) -> None:
        """The host's, which runs between reading the state and computing the position from it."""
        super().compare_trainer_and_checkpoint_args(training_args, trainer_state)
        stored = self.tracker.resumed
        if stored is not None:
            trainer_state.global_step = ResumedStep(trainer_state.global_step)
            trainer_state.global_step.position = TrainingPosition(stored["epoch"], stored["batch"])
            # DeepSpeed makes the scheduler itself where its file has one, or an optimizer.
            total = self.total_steps or training_args.max_steps
            if 0 < total <= trainer_state.global_step:
                trainer_state.global_step.done = total

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The host's; at the start of an epoch the loaded state is what its order comes from."""
        super()._load_rng_state(checkpoint)
        if checkpoint is not None and not self.tracker.batch:
            self.tracker.order = torch.get_rng_state()
