"""Jobs on threads, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    run: Callable[[Job], Result], jobs: Sequence[Job], workers: int, what: str, unit: str, progress: bool = True
) -> list[Result]:
    """`run` of each job, in the order of the jobs; what has not begun is dropped when one raises or on Ctrl-C.

    Args:
        run: called on `workers` threads.
        jobs: what it is called with.
        workers: threads.
        what: shown before the bar.
        unit: what a job is, shown in the bar.
        progress: show the bar.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        done = as_completed(futures)
        try:
            from tqdm import tqdm

            done = tqdm(done, total=len(futures), desc=what, unit=unit, disable=not progress or len(futures) < 2)
        except ImportError:
            pass  # only the bar is lost
        try:
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
