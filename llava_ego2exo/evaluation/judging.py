"""The judge that a command line asks for, or that an earlier run of a folder had."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Ego2ExoError
from .judge_settings import JudgeSettings

if TYPE_CHECKING:
    from .judge import Judge


def judge_settings(url: str | None, model: str | None, unparsed: bool, **others: Any) -> JudgeSettings | None:
    """Settings from flags; None where no judge is asked for.

    Args:
        url: of an OpenAI-compatible endpoint.
        model: its name there.
        unparsed: it also reads replies that the parser cannot.
        others: further fields of `JudgeSettings`; those that are None keep their default.

    Raises:
        Ego2ExoError: the flags do not go together, or a value is wrong.
    """
    if (url is None) != (model is None):
        raise Ego2ExoError("--judge-url and --judge-model", "both or neither", "give the other one too")
    if url is None or model is None:
        if unparsed:
            raise Ego2ExoError("--judge-unparsed without a judge", "with --judge-url and --judge-model", "give these")
        return None
    given = {name: value for name, value in others.items() if value is not None}
    return JudgeSettings(url, model, read_unparsed=unparsed, **given)


def judge_of(settings: JudgeSettings | None, folder: Path, kept: dict[str, Any] | None = None) -> Judge | None:
    """The judge, its answers in the folder of the results.

    Args:
        settings: of the judge to ask; None: nobody is asked.
        folder: of the results.
        kept: settings of the judge of an earlier run, whose answers are used where nobody is asked.
    """
    if settings is None and kept is None:
        return None
    from .judge import Judge

    if settings is None:
        return Judge(JudgeSettings(**(kept or {})), folder, only_kept=True)
    return Judge(settings, folder)
