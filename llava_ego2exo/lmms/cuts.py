"""Parts of videos as files of their own: lmms-eval knows no times, so it would show the whole video."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..common.processes import run_all
from ..distill.cut_pool import Cutters
from ..distill.cutting import Cut
from ..errors import Ego2ExoError
from ..evaluation.items import Item
from ..runs.listing import listed


def cut_out(items: Sequence[Item], folder: Path) -> list[Item]:
    """The same items, each with its part of a video as its file; parts that are there already are kept.

    Args:
        items: with `path` set.
        folder: of the parts; made if one is needed.

    Raises:
        Ego2ExoError: a part cannot be cut, or PyAV is not installed.
    """
    wanted = {_target(item, folder): item for item in items if _is_part(item)}
    if wanted:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [Cut(item.path, target, item.start_s or 0.0, item.end_s) for target, item in wanted.items()]
    with Cutters() as cutters:
        states = run_all(cutters.make, jobs, min(os.cpu_count() or 1, 8), "cutting", "cut")
    faults = [
        f"{item.id}: {state}"
        for item, state in zip(wanted.values(), states, strict=True)
        if state not in ("made", "kept")
    ]
    if faults:
        raise Ego2ExoError(
            f"{len(faults)} of {len(jobs)} part(s) of videos cannot be cut out: {listed(faults)}",
            "parts that lie inside videos that decode",
            "mend these videos or rows and run the same command again, which keeps what is cut",
        )
    return [
        replace(item, path=_target(item, folder), start_s=None, end_s=None) if _is_part(item) else item
        for item in items
    ]


def _is_part(item: Item) -> bool:
    return bool(item.start_s) or item.end_s is not None


def _target(item: Item, folder: Path) -> str:
    """One name for one part, by the video's whole path: videos of one name may lie in several folders."""
    part = hashlib.sha256(repr((item.path, item.start_s, item.end_s)).encode()).hexdigest()[:12]
    return str(folder / f"{Path(item.path).stem[:80]}-{part}.mp4")
