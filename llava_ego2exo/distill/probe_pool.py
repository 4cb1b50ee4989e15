"""Probe many files, each in a process that may hang or crash without harm."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..common.processes import run_all
from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from ..video.probe import require_av
from ..video.worker import WorkerPool
from .probing import Probe, probe_in_worker


def probe_files(
    paths: Sequence[str], workers: int = 0, limits: VideoLimits | None = None, progress: bool = True
) -> dict[str, Probe]:
    """path -> what it holds, for each different path.

    Args:
        paths: video files.
        workers: processes at a time; 0: one per CPU, at most 8.
        limits: of a video; after `video_limit_s` its process is killed and the file counts as faulty. None: the
            defaults.
        progress: show a progress bar.

    Raises:
        Ego2ExoError: PyAV is missing, or a number is negative.
    """
    require_av()
    if workers < 0:
        raise Ego2ExoError(f"--workers {workers}", "0 or more")
    limits, paths = limits or VideoLimits(), list(dict.fromkeys(paths))
    workers = min(workers or min(os.cpu_count() or 1, 8), max(len(paths), 1))

    def probe(path: str) -> Probe:
        try:
            arguments = {"path": os.path.abspath(path), "limits": limits.to_dict()}
            return Probe(**pool.call(probe_in_worker, arguments, limits)[0])
        except Ego2ExoError as error:
            return Probe(error=error.given)

    with WorkerPool("av") as pool:
        results = run_all(probe, paths, workers, "probing", "file", progress)
    return dict(zip(paths, results, strict=True))
