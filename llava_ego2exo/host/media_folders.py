"""Whether the videos and images of a training file are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # command_line brings torch, which these checks can do without
    from .command_line import Settings

KINDS = ("video", "image")
GONE = "is not there"


class MediaFolders:
    """The two folders of a training file.

    Args:
        settings: `video_folder` and `image_folder`, None for the folder that the run is started in.
    """

    def __init__(self, settings: Settings | Mapping[str, Any]) -> None:
        self._folders = {kind: settings[f"{kind}_folder"] or "" for kind in KINDS}

    def faults(self, kind: str, file: Any, name: str | None = None) -> Iterator[str]:
        """What is wrong with one path.

        Args:
            kind: "video" or "image".
            file: as it stands in the sample.
            name: of its key; None: the kind.
        """
        path = os.path.join(self._folders[kind], str(file))
        if "\0" in path or not os.path.exists(path):
            yield f"{name or kind} {path} {GONE}"
