"""Where a training file's videos and images lie: whether each is there, and in the folder that the user named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..config import PREFIX
from ..runs.inside import Inside, lies_outside

if TYPE_CHECKING:  # command_line brings torch, which these checks can do without
    from .command_line import Settings

ALLOW_OUTSIDE = f"{PREFIX}allow_outside"
KINDS = ("video", "image")
GONE, OUTSIDE = "is not there", " leads out of "


class MediaFolders:
    """The two folders of a training file.

    Args:
        settings: `video_folder` and `image_folder`, None for the folder that the run is started in, and
            `ego2exo_allow_outside`: let paths lead elsewhere.
    """

    def __init__(self, settings: Settings | Mapping[str, Any]) -> None:
        self._folders = {kind: settings[f"{kind}_folder"] or "" for kind in KINDS}
        allowed = bool(settings[ALLOW_OUTSIDE])
        self._inside = {kind: None if allowed else Inside(folder or ".") for kind, folder in self._folders.items()}

    def faults(self, kind: str, file: Any, name: str | None = None) -> Iterator[str]:
        """What is wrong with one path, in words.

        Args:
            kind: "video" or "image".
            file: as it stands in the sample.
            name: of its key; None: the kind.
        """
        folder, inside, name = self._folders[kind], self._inside[kind], name or kind
        path = os.path.join(folder, str(file))
        # Nothing is said of files elsewhere, not even whether they are there.
        if inside is not None and not inside.has(path):
            yield lies_outside(name, path, folder or os.getcwd())
        elif not os.path.exists(path):
            yield f"{name} {path} {GONE}"
