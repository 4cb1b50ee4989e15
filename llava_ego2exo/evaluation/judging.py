"""The judge that a command line asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .job import Job

if TYPE_CHECKING:
    from .judge import Judge


def judge_of(job: Job) -> Judge | None:
    """The judge of a job, its cache in the folder of the results; None where none was asked for."""
    if job.judge_url is None or job.judge_model is None:
        return None
    from .judge import Judge, JudgeSettings

    settings = JudgeSettings(job.judge_url, job.judge_model, job.judge_key_env, workers=job.judge_workers)
    return Judge(settings, job.out)
