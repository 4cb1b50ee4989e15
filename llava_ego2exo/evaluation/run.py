"""`llava-ego2exo eval`: plan on the first process, ask on all of them, read, judge and report on the first again."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..common.files import write_whole
from ..common.processes import Ranks, clip_bar, started_ranks
from ..errors import Ego2ExoError
from ..runs.batches import unfinished
from ..runs.listing import listed
from ..video.cache import Reader, cache_stats, format_stats
from .asking import Work
from .finishing import Finished, finish
from .job import Job
from .outcomes import FAILED
from .preparing import MANIFEST, Asked, Prepared, prepare

__all__ = ["evaluate"]


def evaluate(job: Job) -> dict[str, Any]:
    """Ask the models, read their replies, and write the report; what is done already is not done again.

    Returns:
        What `metrics.json` holds.

    Raises:
        Ego2ExoError: something given is wrong (before any weight loads), or more questions failed than allowed (after
            all others are asked, and the report is written).
    """
    with started_ranks() as ranks, contextlib.ExitStack() as stack:
        prepared = ranks.first(lambda: prepare(job, stack))
        read = job.reading.reader()
        attentions = ranks.gather(_ask_all(job, ranks, prepared, read))
        _tell(ranks, format_stats(ranks.gather(cache_stats(read))))
        return ranks.first(lambda: _finish(job, prepared, attentions))


def _ask_all(job: Job, ranks: Ranks, prepared: Prepared, read: Reader) -> dict[str, str]:
    """Each model is loaded once for all its modes; returns model's name -> how its attention is computed."""
    attentions = {}
    for _, modes in groupby(prepared.asked, key=lambda asked: asked.model):
        mine = [(asked, _mine(job, ranks, asked)) for asked in modes]
        if not any(batches for _, batches in mine):
            continue
        asked = mine[0][0]
        teacher = _load(asked, ranks)
        config = teacher.model.config
        attentions[asked.model.name] = str(getattr(config, "_attn_implementation", None) or "unknown")
        for asked, batches in mine:
            _work(job, ranks, asked, batches, teacher, read)
        del teacher
        _free()
    return attentions


def _mine(job: Job, ranks: Ranks, asked: Asked) -> list[Any]:
    return unfinished(asked.plan.batches(job.batch_size), asked.done)[ranks.rank :: ranks.world]


def _load(asked: Asked, ranks: Ranks) -> Any:
    from ..host.teacher import load_teacher

    settings, model = asked.settings, asked.model
    return load_teacher(
        model.path, model.base, settings.bits, settings.dtype, ranks.local,
        template=settings.template, max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip


def _work(job: Job, ranks: Ranks, asked: Asked, batches: Sequence[Any], teacher: Any, read: Reader) -> None:
    work = Work(asked, teacher, ranks.rank, job.workers, read)
    with clip_bar(ranks, f"{asked.model.name}, {asked.mode}", sum(map(len, batches))) as bar:
        for tally in work.answer(batches):
            bar.update(tally.clips - bar.n)
            bar.set_postfix_str(f"{tally.questions} questions, {tally.failed} failed")


def _tell(ranks: Ranks, lines: Sequence[str]) -> None:
    if ranks.rank == 0:
        for line in lines:
            print(line, flush=True)  # noqa: T201


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _finish(job: Job, prepared: Prepared, attentions: Sequence[dict[str, str]]) -> dict[str, Any]:
    manifest = _with_attention(Path(job.out), prepared.manifest, attentions)
    finished = finish(Path(job.out), prepared, manifest, job.judge, job.compare_to)
    _refuse_failures(job, finished)
    return finished.metrics


def _with_attention(folder: Path, manifest: dict[str, Any], found: Sequence[dict[str, str]]) -> dict[str, Any]:
    """What only a loaded model tells; a run that finds every reply on disk keeps what an earlier one has seen."""
    seen = {name: how for own in found for name, how in own.items()}
    models = [{**model, "attention": seen.get(model["name"], model["attention"])} for model in manifest["models"]]
    manifest = {**manifest, "models": models}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def _refuse_failures(job: Job, finished: Finished) -> None:
    failed = [one for one in (*finished.outcomes, *finished.described) if one.state == FAILED]
    lost = {(_first(one).path or _first(one).video, one.error) for one in failed}
    # A question is one, however many models and modes it failed with.
    count = len({_first(one).id for one in failed})
    if count > job.max_failures:
        named = sorted(f"{video}: {error}" if video not in error else error for video, error in lost)
        raise Ego2ExoError(
            f"{count} question(s) got no reply and count as wrong, all others are done: {listed(named, 10)}",
            f"at most {job.max_failures} (--max-failures)",
            f"mend these videos and run the same command again, which asks about them alone (report: {job.out})",
        )


def _first(one: Any) -> Any:
    return one.item if hasattr(one, "item") else one.items[0]
