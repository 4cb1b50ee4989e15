"""What the trainer `ego2exo` adds to checkpoints: each is whole or not there, and a resumed run is the same run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..errors import Ego2ExoError
from .context import RUN
from .disk import disk_reason, not_written
from .patchboard import substituted
from .progress import Progress, StepAt, random_states, set_random_states, sums_to_save
from .safe_load import only_weights
from .tally import Sums
from .whole_checkpoints import UNFINISHED, finish


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
                self.unlogged, self.whole = Sums(**stored["unlogged"]), Sums(**stored["whole"])

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
                shutil.rmtree(part, ignore_errors=True)
                reason = disk_reason(error)
                if reason is None:
                    raise
                raise not_written(f"{root / name}", reason, root) from error
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
