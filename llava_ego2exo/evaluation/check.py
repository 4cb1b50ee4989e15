"""`llava-ego2exo eval --check`: a benchmark's data and videos, checked without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.text import aligned_table, shorten_list
from ..video.limits import VideoLimits
from .benchmarks.registry import BENCHMARKS, BenchmarkData, read_benchmark
from .items import CHOICE, Item
from .videos import find_videos

_SHOWN = 20
# How much earlier than a clip in it a video may end: the last frame's length is a guess.
_MISSING_S = 0.5


@dataclass(frozen=True)
class DataCheck:
    """The result of a check: a text for the terminal, and what is wrong with videos."""

    text: str
    faults: list[str]

    def __str__(self) -> str:
        return self.text


def check(
    name: str, data: str | Path, videos: str | Path | None = None, views: Sequence[str] = ("exo",), *,
    categories: Sequence[str] | None = None, limit: int = 0, max_bad: int = 0, probe: bool = False,
    limits: VideoLimits | None = None, workers: int = 0, progress: bool = True,
) -> DataCheck:  # fmt: skip
    """Read and validate a benchmark, and where a folder is given its videos; `probe` decodes them whole.

    Args:
        limit: check the first so many questions only; 0: all.
        max_bad: malformed rows that may be left out.
        workers: videos decoded at a time; 0: one a processor, at most 8.

    Raises:
        Ego2ExoError: the data is faulty, the folder is missing, or several files fit one name.
    """
    read = read_benchmark(name, data, views, categories, max_bad)
    # All are looked for: whether a file name is ambiguous depends on all names in the data.
    found = find_videos(read.items, videos, read.precut).items[: limit or None] if videos is not None else None
    read.items = read.items[: limit or None]
    lines = list(_about_data(name, read))
    faults: list[str] = []
    if found is not None:
        there, missing = [item for item in found if item.path], [item for item in found if not item.path]
        faults += _missing(missing)
        lost = f"{len(_videos(missing))} missing ({len(missing)} question(s))"
        lines += ["", f"videos in {videos}: {len(_videos(there))} there, {lost}"]
        if probe:
            decoded = _probe_faults(there, limits, workers, progress)
            files = len({item.path for item in there})
            lines.append(f"decoded whole: {files} file(s), {len(decoded)} fault(s)")
            faults += decoded
    lines.append("")
    lines += [f"  {fault}" for fault in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"  and {len(faults) - _SHOWN} more")
    undecoded = "; the videos were not decoded: add --probe" if found and not probe else ""
    lines.append((f"{len(faults)} fault(s)" if faults else "no faults found") + undecoded)
    return DataCheck("\n".join(lines), faults)


def _about_data(name: str, read: BenchmarkData) -> Iterator[str]:
    items = read.items
    yield f"{name}: {BENCHMARKS[name].title}, {len(items)} question(s) about {len(_videos(items))} video(s)"
    yield f"{read.path}: {read.rows} row(s), layout: {read.layout}"
    if read.bad:
        yield f"left out: {len(read.bad)} malformed row(s)"
        yield from (f"  {row}" for row in read.bad)
    if read.unread:
        unread = [f"{ascii(key)[1:-1]} ({count})" for key, count in read.unread.items()]
        yield f"keys that are not read (rows): {shorten_list(unread, _SHOWN)}"
    yield ""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.category, item.view or "-"), []).append(item)
    rows = [[*group, len(members), len(_videos(members))] for group, members in groups.items()]
    yield aligned_table(["category", "view", "questions", "videos"], rows, left=2, rule=True)
    yield ""
    a_video = Counter(item.video for item in items).values()
    yield f"questions a video: {min(a_video)} to {max(a_video)}, {len(items) / len(a_video):.1f} on average"
    spans = sum(item.start_s is not None or item.end_s is not None for item in items)
    yield f"questions about a part of their video: {spans}"
    if items[0].kind == CHOICE:
        sizes = Counter(len(item.choices) for item in items)
        yield f"options a question: {', '.join(f'{size} ({count})' for size, count in sorted(sizes.items()))}"
        keys = Counter(item.answer for item in items)
        yield f"right key: {', '.join(f'{key} {100 * keys[key] / len(items):.1f}%' for key in sorted(keys))}"
        twins = sum(item.has_twins for item in items)
        if twins:
            yield f"warning: questions with options of the same text, which are asked as they are: {twins}"
        chance = sum(len(item.right_keys) / len(item.choices) for item in items) / len(items)
        key, most = keys.most_common(1)[0]
        yield f"right by chance: {100 * chance:.1f}%; by always answering {key}: {100 * most / len(items):.1f}%"


def _missing(items: Sequence[Item]) -> list[str]:
    """One line for each missing video, with what asks about it."""
    asked: dict[str, list[Item]] = {}
    for item in items:
        asked.setdefault(item.video, []).append(item)
    return [
        f"{ascii(video)[1:-1]} is not there ({len(own)} question(s), the first in {own[0].source})"
        for video, own in asked.items()
    ]


def _probe_faults(there: Sequence[Item], limits: VideoLimits | None, workers: int, progress: bool) -> list[str]:
    from ..video.probe import probe_files

    probes = probe_files([item.path for item in there], workers, limits, progress)
    faults = [f"{path} {probe.error}" for path, probe in probes.items() if probe.error]
    for item in there:
        probe = probes[item.path]
        if not probe.error and item.end_s is not None and item.end_s > probe.duration_s + _MISSING_S:
            faults.append(
                f"{item.path} ends at {probe.duration_s:.2f} s, before the clip of {item.source} at {item.end_s:.2f} s"
            )
    return faults


def _videos(items: Sequence[Item]) -> set[str]:
    return {item.video for item in items}
