"""The processes of one run, as torchrun starts them, and jobs on threads."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ..errors import Ego2ExoError

Value = TypeVar("Value")
Job = TypeVar("Job")
Result = TypeVar("Result")
# The slowest process may be hours behind; one that dies takes the others down through torchrun.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run; `local` is its number on its machine, and so its GPU's."""

    rank: int = 0
    world: int = 1
    local: int | None = None

    def first(self, make: Callable[[], Value]) -> Value:
        """`make()` of process 0, for all.

        Raises:
            Ego2ExoError: as `make` does, on process 0; the others exit silently.
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
        sent: list[Any] = [value, error is None]
        distributed.broadcast_object_list(sent, src=0)
        if error is not None:
            raise error
        if not sent[1]:
            sys.exit(1)
        return sent[0]

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
    """The processes of this run, connected inside the block.

    Raises:
        Ego2ExoError: the environment names several, and they cannot connect.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        yield Ranks()
        return
    from torch import distributed

    rank = int(os.environ["RANK"])
    try:
        distributed.init_process_group("gloo", timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise Ego2ExoError(
            f"process {rank} of {world} cannot reach the others: {str(error).splitlines()[0]}",
            "processes started by torchrun",
            "start them as `torchrun --nproc_per_node N -m llava_ego2exo COMMAND ...`, or unset WORLD_SIZE",
        ) from error
    try:
        yield Ranks(rank, world, int(os.environ.get("LOCAL_RANK", rank)))
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process reports for all."""
    return os.environ.get("RANK", "0") == "0"


def log_line(text: str) -> None:
    """One line to stderr (the logger `llava_ego2exo`), from the first process alone."""
    if is_first():
        logging.getLogger("llava_ego2exo").warning("ego2exo: %s", text)


def clip_bar(ranks: Ranks, what: str, total: int) -> Any:
    """A progress bar of clips, shown by the first process alone."""
    from tqdm import tqdm

    many = f" (process 1 of {ranks.world})" if ranks.world > 1 else ""
    # A log file gets a line every half minute, not ten a second.
    pause = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=total, desc=what + many, unit="clip", disable=ranks.rank != 0, mininterval=pause)


def map_threads(
    run: Callable[[Job], Result], jobs: Sequence[Job], workers: int, what: str, unit: str, progress: bool = True
) -> list[Result]:
    """`run` of each job on threads, in the order of the jobs; the first error, or Ctrl-C, drops the rest."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        done = as_completed(futures)
        with contextlib.suppress(ImportError):  # without tqdm only the bar is lost
            from tqdm import tqdm

            done = tqdm(done, total=len(futures), desc=what, unit=unit, disable=not progress or len(futures) < 2)
        try:
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
