"""The judge that a command line asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Ego2ExoError

if TYPE_CHECKING:
    from .judge import Judge


def check_flags(url: str | None, model: str | None, unparsed: bool) -> None:
    """Refuse flags of a judge that do not go together.

    Raises:
        Ego2ExoError: one of address and model is missing, or there is no judge to read replies.
    """
    if (url is None) != (model is None):
        raise Ego2ExoError("--judge-url and --judge-model", "both or neither", "give the other one too")
    if unparsed and url is None:
        raise Ego2ExoError("--judge-unparsed without a judge", "with --judge-url and --judge-model", "give these")


def judge_of(
    url: str | None, model: str | None, key_env: str, workers: int, unparsed: bool, folder: str
) -> Judge | None:  # fmt: skip
    """The judge, its cache in the folder of the results; None where none was asked for.

    Args:
        url: of an OpenAI-compatible endpoint.
        model: its name there.
        key_env: the environment variable that holds the key.
        workers: requests at once.
        unparsed: it also reads replies that the parser cannot.
        folder: of the results.

    Raises:
        Ego2ExoError: the flags do not go together, or a setting is wrong.
    """
    check_flags(url, model, unparsed)
    if url is None or model is None:
        return None
    from .judge import Judge, JudgeSettings

    settings = JudgeSettings(url, model, key_env, workers=workers, read_unparsed=unparsed)
    return Judge(settings, folder)
