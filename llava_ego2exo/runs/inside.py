"""Whether the paths that a data file names lie in the folder that the user named, links followed.

A data file is often somebody else's. Without this check a line of it could have any file of this machine shown to a
model, by `../`, by an absolute path, or by a link that came with the videos.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import Ego2ExoError
from .listing import listed


class Inside:
    """One folder or several; a folder may itself be a link.

    Args:
        folders: where paths may lead to.
    """

    def __init__(self, *folders: str | Path) -> None:
        self._roots = [os.path.realpath(folder) for folder in folders]
        # Thousands of videos share a few folders.
        self._real = functools.lru_cache(65536)(os.path.realpath)

    def has(self, path: str | Path) -> bool:
        """Whether what a path leads to lies in one of the folders, there or not."""
        try:
            above, name = os.path.split(os.path.abspath(path))
            real = os.path.join(self._real(above), name)
            real = os.path.realpath(real) if os.path.islink(real) else real
        except (OSError, ValueError):
            return False  # no path at all, such as one with a null byte
        return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in self._roots)

    def outside(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths that lead elsewhere, in their order."""
        return [path for path in paths if not self.has(path)]


def lies_outside(name: str, path: str, folder: str | Path) -> str:
    """In words, that a path leads elsewhere, and whether a link does it."""
    straight = os.path.normpath(os.path.abspath(path))
    linked = straight.startswith(os.path.abspath(folder).rstrip(os.sep) + os.sep)
    return f"{name} {path} leads out of {folder}" + (" by a link" if linked else "")


def outside_error(lines: list[str], where: str, flag: str) -> Ego2ExoError:
    """The refusal of paths that lead out of their folder.

    Args:
        lines: one a path.
        where: what the folder is, in words.
        flag: that allows them.
    """
    return Ego2ExoError(
        f"{len(lines)} path(s) lead out of {where}: {listed(lines)}",
        f"files in {where}, links followed",
        f"put the files there, or, where you trust these paths (as of links into a store of videos), give {flag}",
    )
