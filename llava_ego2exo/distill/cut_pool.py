"""Cuts made in processes that may hang or crash without harm."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, replace

from ..errors import Ego2ExoError
from ..video.limits import VideoLimits
from ..video.worker import WorkerPool
from .cutting import Cut, duration, made_as, make_in_worker


class Cutters(WorkerPool):
    """Workers that cut videos, as many as concurrent callers; used in a `with` block.

    Args:
        limits: of a video; `video_limit_s` is the maximum time for one frame of a cut. None: the defaults.
    """

    def __init__(self, limits: VideoLimits | None = None) -> None:
        super().__init__("av")
        self.limits = limits or VideoLimits()

    def make(self, cut: Cut) -> str:
        """Make a cut unless it exists.

        Args:
            cut: what to make.

        Returns:
            "kept" if the right cut existed, "made" if it was made, else the error message.
        """
        whole = replace(cut, source=os.path.abspath(cut.source), target=os.path.abspath(cut.target))
        part = whole.part()
        arguments = {"cut": asdict(whole), "part": part, "limits": self.limits.to_dict()}
        try:
            return self.call(make_in_worker, arguments, self.limits, f"{cut.source} cannot be cut:")[0]
        except Ego2ExoError as error:
            return error.given
        finally:
            with contextlib.suppress(FileNotFoundError):  # left by a killed process
                os.unlink(part)

    def made_as(self, path: str) -> str:
        """The mark in a cut's metadata; empty if the file is not a complete cut.

        Args:
            path: of the file.
        """
        try:
            return self.call(made_as, {"path": os.path.abspath(path)}, self.limits)[0]
        except Ego2ExoError:
            return ""

    def duration(self, path: str) -> float:
        """Duration of a video in seconds; decodes only its end.

        Args:
            path: of the file.

        Raises:
            Ego2ExoError: it does not decode, or its frames have no times; the message lacks the file's name.
        """
        return self.call(duration, {"path": os.path.abspath(path)}, self.limits)[0]
