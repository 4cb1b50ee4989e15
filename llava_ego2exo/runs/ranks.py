"""Several processes of one run, as torchrun starts them: who is who, and what one tells the others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import Ego2ExoError

Value = TypeVar("Value")
# The slowest process may be hours behind; one that dies takes the others down through torchrun.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run.

    Args:
        rank: its number.
        world: how many there are.
        local: its number on its machine, which is its GPU's; None where there is only one process.
    """

    rank: int = 0
    world: int = 1
    local: int | None = None

    def first(self, make: Callable[[], Value]) -> Value:
        """`make()` of process 0, for all.

        Raises:
            Ego2ExoError: as `make` does, on process 0; the others end without a word, as it has said it.
        """
        if self.world == 1:
            return make()
        from torch import distributed

        value, error = None, None
        if self.rank == 0:
            try:
                value = make()
            except Ego2ExoError as raised:
                error = raised
        told: list[Any] = [value, error is None]
        distributed.broadcast_object_list(told, src=0)
        if error is not None:
            raise error
        if not told[1]:
            sys.exit(1)
        return told[0]

    def gather(self, value: Value) -> list[Value]:
        """Every process's value, in order of rank, on every process."""
        if self.world == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def started_ranks() -> Iterator[Ranks]:
    """The processes of this run, connected for the time of the block.

    Raises:
        Ego2ExoError: the environment says there are several, and they do not find each other.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    from torch import distributed

    rank = int(os.environ["RANK"])
    try:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise Ego2ExoError(
            f"process {rank} of {world} does not find the others: {str(error).splitlines()[0]}",
            "processes started by torchrun",
            "start them as `torchrun --nproc_per_node N -m llava_ego2exo COMMAND ...`, or unset WORLD_SIZE",
        ) from error
    try:
        yield Ranks(rank, world, int(os.environ.get("LOCAL_RANK", rank)))
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def clip_bar(ranks: Ranks, what: str, total: int) -> Any:
    """A progress bar of clips, shown by the first process alone.

    Args:
        ranks: the processes.
        what: shown before it.
        total: clips of this process.
    """
    from tqdm import tqdm

    many = f" (process 1 of {ranks.world})" if ranks.world > 1 else ""
    # A log file gets a line every half minute, not ten a second.
    pause = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=what + many, unit="clip", disable=ranks.rank != 0, mininterval=pause)
