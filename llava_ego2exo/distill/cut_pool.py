"""Cuts made in processes that may hang or crash without harm."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, replace
from typing import Any

from ..video.limits import VideoLimits
from ..video.pool import Pool
from ..video.worker import Stopped
from .cutting import Cut


class Cutters(Pool):
    """As many processes as callers at a time; to be used in a `with` block, at whose end they stop.

    Args:
        limits: what a video may be, and seconds that a cut may stand still; None: the defaults.
    """

    def __init__(self, limits: VideoLimits | None = None) -> None:
        super().__init__("llava_ego2exo.distill.cutting")
        self.limits = limits or VideoLimits()

    def make(self, cut: Cut) -> str:
        """Make one cut where it is not there yet.

        Args:
            cut: what to make.

        Returns:
            "kept" where the right cut was there, "made" where it was made, else what went wrong, in words.
        """
        whole = replace(cut, source=os.path.abspath(cut.source), target=os.path.abspath(cut.target))
        part = whole.part()
        try:
            answer = self._ask({"want": "make", "cut": asdict(whole), "part": part})
        except Stopped as stopped:
            return f"{cut.source} cannot be cut: {stopped}"
        finally:
            # A process that was killed could not do it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
        return answer["state"] if "state" in answer else f"{cut.source} cannot be cut: {answer['refused'][0]}"

    def made_as(self, path: str) -> str:
        """The mark in a cut's metadata; empty where the file is no complete cut of ours.

        Args:
            path: of the file.
        """
        try:
            return self._ask({"want": "mark", "path": os.path.abspath(path)}).get("mark", "")
        except Stopped:
            return ""

    def duration(self, path: str) -> float:
        """Seconds from the first frame of a video to the end of the last; decodes only its end.

        Args:
            path: of the file.

        Raises:
            ValueError: it cannot be told.
        """
        try:
            answer = self._ask({"want": "duration", "path": os.path.abspath(path)})
        except Stopped as stopped:
            raise ValueError(str(stopped)) from stopped
        if "refused" in answer:
            raise ValueError(answer["refused"][0])
        return answer["seconds"]

    def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        with self.worker() as worker:
            return worker.ask({**wanted, **self.limits.request()}, self.limits.video_limit_s)
