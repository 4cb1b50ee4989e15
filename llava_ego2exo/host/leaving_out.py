"""What the trainer `ego2exo` does about samples that cannot be read, and what it tells of reading at its end."""

from __future__ import annotations

from typing import Any

from ..config import ReadingConfig
from ..runs.ranks import Ranks
from ..video.cache import counts_of, told_of
from .bad_samples import workers_told
from .bad_tally import BadTally
from .reading import reader_of
from .tally import Sums


def leaving_out(trainer: type) -> type:
    """A subclass of the distilling trainer."""
    from transformers import TrainerCallback

    class Begins(TrainerCallback):
        """Tells a trainer's tally where a run begins."""

        def __init__(self, trainer: Any) -> None:
            self.trainer = trainer

        def on_train_begin(self, _args: Any, state: Any, *_rest: Any, **_kwargs: Any) -> None:
            self.trainer.bad.start(int(state.global_step))

    class LeavingOutTrainer(trainer):  # type: ignore[misc, valid-type]
        """See the module."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.data_flags = getattr(self.train_dataset, "data_args", None)
            self.ranks = Ranks(self.args.process_index, self.args.world_size)
            most = ReadingConfig.from_object(self.data_flags).max_bad
            self.bad = BadTally(most, self.args.output_dir, self.ranks)
            self.add_callback(Begins(self))

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """The host's, of the rows that could be read."""
            rows = self.bad.take(inputs)
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            self.sums.leave_out(rows)
            return loss

        def examine(self, total: Sums) -> None:
            """Count what was left out in a global batch, before the optimizer steps."""
            new = self.bad.settle(total.unreadable, int(self.state.global_step) + 1)
            if new:
                self._tell(new)
                self.log({"unreadable": len(self.bad.known)})
            super().examine(total)

        def train(self, *args: Any, **kwargs: Any) -> Any:
            """The host's; then what was left out, and what the frame cache did."""
            with workers_told():
                result = super().train(*args, **kwargs)
            read = reader_of(self.data_flags)
            self._tell([*self.bad.told(), *told_of(self.ranks.gather(None if read is None else counts_of(read)))])
            return result

    return LeavingOutTrainer
