"""The video files of a benchmark's items, found by the names that the data gives them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.text import shorten_list
from ..errors import Ego2ExoError
from ..video.limits import VIDEO_SUFFIXES
from .benchmarks.files import parts_of, suffix_of, without_suffix
from .items import Item


@dataclass(frozen=True)
class FoundVideos:
    """All items in their order, with `path` set where the video is there; and those without."""

    items: list[Item]
    missing: list[Item]


def find_videos(items: Sequence[Item], folder: str | Path, precut: Mapping[str, str] | None = None) -> FoundVideos:
    """Find the items' videos in a folder and the folders in it.

    A name is taken as a path below the folder, else as the end of one; then by the file's own name, where only one name
    in the data and one file have it. With and without suffix. Links in the folder are followed. `precut` names items'
    clips as files of their own, which are taken where the whole video is not there.

    Raises:
        Ego2ExoError: there is no folder, it holds no video, or several files fit one name.
    """
    index = _Index(folder, {item.video for item in items})
    found: list[Item] = []
    for item in items:
        path = index.path(item.video)
        clip = index.path((precut or {}).get(item.id, "")) if not path else ""
        found.append(replace(item, path=clip, start_s=None, end_s=None) if clip else replace(item, path=path))
    if index.clashes:
        shown = [f"{name}: {' and '.join(files)}" for name, files in index.clashes.items()]
        raise Ego2ExoError(
            f"{len(shown)} video(s) of the data fit several files in {folder}: {shorten_list(shown, 20)}",
            "one file for each",
            "pass the folder from which the data's paths count, or rename files",
        )
    return FoundVideos(found, [item for item in found if not item.path])


class _Index:
    """All videos of a folder, searched once, for all names that the data uses; nothing outside it is searched."""

    def __init__(self, folder: str | Path, names: set[str]) -> None:
        self.clashes: dict[str, list[str]] = {}
        self._folder = os.path.abspath(folder)
        self._files: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for parts in _videos(self._folder):
            self._files[without_suffix(parts[-1])].append(parts)
        if not self._files:
            raise Ego2ExoError(
                f"--videos {folder} holds no video", f"files with {' '.join(sorted(VIDEO_SUFFIXES))}", "check the path"
            )
        self._one_folder = len({parts[:-1] for files in self._files.values() for parts in files}) == 1
        # Two spellings of one path are one name.
        spelled = {tuple(parts_of(name)) for name in names}
        self._uses = Counter(without_suffix(parts[-1]) for parts in spelled if parts)
        self._known: dict[str, str] = {"": ""}

    def path(self, name: str) -> str:
        """Absolute path of a name's file; "" where there is none, or several: these are in `clashes` then."""
        if name not in self._known:
            files = self._fitting(name)
            if len(files) > 1:
                self.clashes[name] = sorted(os.path.join(*parts) for parts in files)
            path = os.path.join(self._folder, *files[0]) if len(files) == 1 else ""
            # A link may lead nowhere.
            self._known[name] = path if os.path.isfile(path) else ""
        return self._known[name]

    def _fitting(self, name: str) -> list[tuple[str, ...]]:
        parts = tuple(parts_of(name))
        if not parts:
            return []
        stem, suffix = without_suffix(parts[-1]), suffix_of(parts[-1]).lower()
        files = self._files.get(stem, [])
        # Some data count their paths from the folder above.
        for own in (parts, parts[1:] if parts[0] == os.path.basename(self._folder) else ()):
            if own in files:
                return [own]
        ends = [file for file in files if file[:-1][len(file) - len(parts) :] == parts[:-1] and len(file) >= len(parts)]
        # A file that merely has the same name may be another video's clip.
        rooted = name.startswith(("/", "\\")) or name[1:2] == ":" or len(parts) == 1
        alone = self._uses[stem] <= 1 and (rooted or self._one_folder)
        whole = [file for file in ends if len(file) == len(parts)]
        for candidates in (whole, ends, files if alone else []):
            same = [file for file in candidates if suffix_of(file[-1]).lower() == suffix]
            if same or candidates:
                return self._different(same or candidates)
        return []

    def _different(self, files: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """One name for each file; links make several."""
        return list({os.path.realpath(os.path.join(self._folder, *parts)): parts for parts in files[::-1]}.values())


def _videos(folder: str) -> Iterator[tuple[str, ...]]:
    """Paths below the folder; a folder that links lead to a second time is walked once."""
    if not os.path.isdir(folder):
        reason = "is not there" if not os.path.exists(folder) else "is no folder"
        raise Ego2ExoError(f"--videos {folder} {reason}", "the folder of the benchmark's videos", "check the path")
    visited, waiting = set(), [folder]
    while waiting:
        links = []
        for root, folders, files in os.walk(waiting.pop(0), onerror=_refuse):
            real = os.path.realpath(root)
            if real in visited:
                folders[:] = []
                continue
            visited.add(real)
            links += [path for path in (os.path.join(root, name) for name in sorted(folders)) if os.path.islink(path)]
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            place = os.path.relpath(root, folder)
            above = () if place == "." else tuple(place.split(os.sep))
            yield from ((*above, name) for name in sorted(files) if suffix_of(name) and not name.startswith("."))
        waiting += links


def _refuse(error: OSError) -> None:
    raise Ego2ExoError(
        f"{error.filename} cannot be read: {error.strerror}", "readable folders", "fix its permissions"
    ) from error
