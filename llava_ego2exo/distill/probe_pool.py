"""Probe many files, each in a process that may hang or crash without harm."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..common.processes import run_all
from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from ..video.pool import Pool
from ..video.probe import require_av
from ..video.worker import Stopped
from .probing import Probe


def probe_files(
    paths: Sequence[str], workers: int = 0, limits: VideoLimits | None = None, progress: bool = True
) -> dict[str, Probe]:
    """path -> what it holds, for each different path.

    Args:
        paths: video files.
        workers: processes at a time; 0: one a processor, at most 8.
        limits: what a video may be, and seconds that it may take; then its process is killed and the file counts as
            faulty. None: the defaults.
        progress: show a progress bar.

    Raises:
        Ego2ExoError: PyAV is missing, or a number is negative.
    """
    require_av()
    if workers < 0:
        raise Ego2ExoError(f"--workers {workers}", "0 or more", "mend the number")
    paths = list(dict.fromkeys(paths))
    workers = min(workers or min(os.cpu_count() or 1, 8), max(len(paths), 1))
    with Prober(limits) as prober:
        results = run_all(prober.probe, paths, workers, "probing", "file", progress)
    return dict(zip(paths, results, strict=True))


class Prober(Pool):
    """As many processes as callers at a time; to be used in a `with` block, at whose end they stop.

    Args:
        limits: what a video may be, and seconds that it may take; None: the defaults.
    """

    def __init__(self, limits: VideoLimits | None = None) -> None:
        super().__init__("llava_ego2exo.distill.probing")
        self.limits = limits or VideoLimits()

    def probe(self, path: str) -> Probe:
        """What one file holds, or why it cannot be read.

        Args:
            path: of the file.
        """
        try:
            with self.worker() as worker:
                request = {"path": os.path.abspath(path), **self.limits.request()}
                answer = worker.ask(request, self.limits.video_limit_s)
        except Stopped as stopped:
            return Probe(error=str(stopped))
        return Probe(**answer) if "refused" not in answer else Probe(error=answer["refused"][0])
