"""The benchmarks by name, and the items that a benchmark's file holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...common.text import shorten_list
from ...errors import Ego2ExoError
from ..items import CHOICE, DESCRIPTION, Item
from .files import EGO, EXO
from .layout import BenchmarkData, Layout, parse_file
from .layouts import CHARADES_DESCRIPTION, CURRENT, EGO_IN_EXO, EGO_IN_EXO_FILES, LEGACY_LAYOUTS, TSU_DESCRIPTION

# Every malformed row is named, up to this many.
_SHOWN = 1000
_CHOICE_LAYOUTS = (CURRENT, *LEGACY_LAYOUTS)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark."""

    title: str  # as its authors call it; the category of items whose data has none
    kind: str  # "choice" or "description"
    layouts: tuple[Layout, ...]  # that its files may have
    files: tuple[str, ...]  # names that published files have, without "LEGACY-"
    folders: tuple[str, ...]  # beside its file, in which its videos are published
    views: tuple[str, ...] = ()  # cameras that it can be asked on; empty where it has one only


BENCHMARKS: dict[str, Benchmark] = {
    "ego-in-exo": Benchmark(
        "Ego-in-Exo Perception", CHOICE, (EGO_IN_EXO_FILES, EGO_IN_EXO),
        ("egoinexoperception.json", "all_category_qas.json"), ("videos", "keystep_segments"), (EXO, EGO),
    ),
    "adlx-charades-ar": Benchmark(
        "Charades-AR", CHOICE, _CHOICE_LAYOUTS, ("Charades-AR.json",), ("videos/Charades_v1_480",)
    ),
    "adlx-smarthome-ar": Benchmark(
        "Smarthome-AR", CHOICE, _CHOICE_LAYOUTS, ("Smarthome-AR.json",), ("videos/SH_cropped224x224_better",)
    ),
    "adlx-lemma-tc": Benchmark("LEMMA-TC", CHOICE, _CHOICE_LAYOUTS, ("LEMMA-TC.json",), ("videos/lemma_cropped",)),
    "adlx-tsu-tc": Benchmark("TSU-TC", CHOICE, _CHOICE_LAYOUTS, ("TSU-TC.json",), ("videos/ADLMCQ-TC-TSU",)),
    "adlx-charades-desc": Benchmark(
        "Charades-Description", DESCRIPTION, (CHARADES_DESCRIPTION,),
        ("Charades-Description.json", "Charades-Desc.json"), ("videos/Charades_v1_480",),
    ),
    # The whole videos of TSU are in no published folder.
    "adlx-tsu-desc": Benchmark(
        "TSU-Description", DESCRIPTION, (TSU_DESCRIPTION,), ("TSU-Description.json", "TSU-Desc.json"), ("videos",)
    ),
}  # fmt: skip


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of a name; raises where there is none."""
    if name not in BENCHMARKS:
        raise Ego2ExoError(f"--benchmark {name!r}", ", ".join(BENCHMARKS), "choose one of these")
    return BENCHMARKS[name]


def data_file(name: str, data: str | Path) -> Path:
    """The file of a benchmark: `data`, or in a folder the file of a published name, there or one folder below.

    Case and signs in names do not count, nor "LEGACY-".

    Raises:
        Ego2ExoError: the name is unknown, a folder holds no or several fitting files, or a file is another benchmark's.
    """
    benchmark, path = benchmark_of(name), Path(data)
    if not path.exists():
        raise Ego2ExoError(f"--data {path} is not there", "the benchmark's file, or a folder of it", "check the path")
    if not path.is_dir():
        others = _of_others(name, [path])
        if others:
            raise Ego2ExoError(
                f"--data {path} has the name of the file of {others[0]}, not of {name}",
                f"a file for --benchmark {name}",
                "correct --benchmark or --data, or rename the file if its name is wrong",
            )
        return path
    try:
        folders = [path, *sorted(entry for entry in path.iterdir() if entry.is_dir() and os.access(entry, os.R_OK))]
        found = [file for place in folders for file in sorted(place.iterdir()) if file.suffix.lower() == ".json"]
    except OSError as error:
        given = f"--data {path} cannot be read: {error.strerror}"
        raise Ego2ExoError(given, "a readable folder", "fix its permissions") from error
    fitting = [file for file in found if _plain(file.name) in _names(benchmark)]
    if len(fitting) != 1:
        shown = shorten_list([str(file.relative_to(path)) for file in fitting or found], 20) or "no JSON file"
        others = [] if fitting else _of_others(name, found)
        raise Ego2ExoError(
            f"--data {path} holds {len(fitting)} files of {name}, of: {shown}",
            f"one of {', '.join(benchmark.files)}, or the same with LEGACY- before it",
            f"pass {' or '.join(others)} as --benchmark, or another --data" if others else "pass the file itself",
        )
    return fitting[0]


def video_folders(name: str, data: str | Path) -> list[Path]:
    """The folders beside a benchmark's file in which its videos are published; where there is none, `videos`."""
    place = data_file(name, data).parent
    for folders in (benchmark_of(name).folders, ("videos",)):
        found = [place / folder for folder in folders if (place / folder).is_dir()]
        if found:
            return found
    return []


def video_folder(name: str, data: str | Path) -> Path:
    """The one of `video_folders`.

    Raises:
        Ego2ExoError: as `data_file`, or there is none, or several.
    """
    place, folders = data_file(name, data).parent, benchmark_of(name).folders
    found = video_folders(name, data)
    if len(found) != 1:
        packed = [file.name for file in sorted(place.glob("*.zip"))]
        raise Ego2ExoError(
            f"--videos is not given, and {place} holds {' and '.join(path.name for path in found) or 'no such folder'}",
            f"one folder there, named {' or '.join(dict.fromkeys((*folders, 'videos')))}, or --videos DIR",
            f"pass --videos{f', or unpack {shorten_list(packed)} there' if packed and not found else ''}",
        )
    return found[0]


def _of_others(name: str, files: Sequence[Path]) -> list[str]:
    """The other benchmarks whose files have such names."""
    found = {_plain(file.name) for file in files}
    return [one for one, other in BENCHMARKS.items() if one != name and found & _names(other)]


def _names(benchmark: Benchmark) -> set[str]:
    return {_plain(file) for file in benchmark.files}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", Path(name).stem.lower()).removeprefix("legacy")


def read_benchmark(
    name: str,
    data: str | Path,
    views: Sequence[str] = (EXO,),
    categories: Sequence[str] | None = None,
    max_bad: int = 0,
) -> BenchmarkData:
    """The items of a benchmark.

    Args:
        name: of the benchmark.
        data: its JSON file, or a folder that holds it under the name that it was published with.
        views: cameras to ask on; of benchmarks with one camera leave it as it is.
        categories: those to keep; None: all.
        max_bad: malformed rows that may be left out.

    Raises:
        Ego2ExoError: a name is unknown, the file is not there or cannot be read, or more rows are malformed.
    """
    benchmark = benchmark_of(name)
    views = _check_views(name, benchmark, views)
    if max_bad < 0:
        raise Ego2ExoError(f"--max-bad-rows {max_bad}", "0 or more", "pass 0 or more")
    path = data_file(name, data)
    found = parse_file(path, benchmark.layouts, name, benchmark.title, benchmark.kind, views)
    if len(found.bad) > max_bad or len(found.bad) == found.rows:
        skip = f", or skip them, counted, by --max-bad-rows {len(found.bad)}" if found.items else ""
        raise Ego2ExoError(
            f"{path}: {len(found.bad)} malformed row(s) of {found.rows}: {shorten_list(found.bad, _SHOWN)}",
            f"{max_bad} malformed row(s), and at least one good row",
            f"correct these rows{skip}",
        )
    if categories is not None:
        found.items = _only(found.items, categories)
    return found


def _check_views(name: str, benchmark: Benchmark, views: Sequence[str]) -> tuple[str, ...]:
    known = benchmark.views or (EXO,)
    views = (views,) if isinstance(views, str) else tuple(dict.fromkeys(views))
    unknown = [view for view in views if view not in known]
    if unknown or not views:
        allowed = f"{', '.join(known)} for {name}" if benchmark.views else f"nothing: {name} has one camera only"
        raise Ego2ExoError(f"--view {', '.join(map(str, unknown)) or '(none)'}", allowed, "correct or drop --view")
    return views if benchmark.views else ("",)


def _only(items: Sequence[Item], categories: Sequence[str]) -> list[Item]:
    known = list(dict.fromkeys(item.category for item in items))
    unknown = [category for category in categories if category not in known]
    if unknown or not categories:
        raise Ego2ExoError(
            f"--categories {', '.join(map(ascii, unknown)) or '(none)'}", ", ".join(known), "choose among these"
        )
    return [item for item in items if item.category in categories]
