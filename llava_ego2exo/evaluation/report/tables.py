"""An evaluation's tables, made once from its metrics and shown on a terminal, in Markdown and on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ...common.text import aligned_table
from ..items import FAILED, MISLABELLED, Described, Outcome
from ..stats.descriptions import ALL

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
TITLES = {
    "summary": "Results",
    "categories": "By category",
    "descriptions": "Descriptions",
    "positions": "Which option is chosen",
    "failures": "Failures",
    "provenance": "What these numbers depend on",
}
_LONGEST_VALUE = 300
_SHOWN_FAILURES = 50


@dataclass(frozen=True)
class Table:
    """One table of a section, which is one of `TITLES`."""

    section: str
    caption: str
    head: Sequence[str]  # a column without a heading qualifies the number before it
    rows: Sequence[Sequence[str]]
    left: int = 1  # how many of the first columns are names and not numbers
    texts: bool = False  # whether all columns are texts

    @property
    def grouped(self) -> bool:
        """Whether rows of one first name stand together."""
        return self.left > 1 and not self.texts

    @property
    def groups(self) -> list[list[Sequence[str]]]:
        """The rows, in such groups; one group where there are none."""
        return [list(rows) for _, rows in groupby(self.rows, lambda row: row[0] if self.grouped else "")]


def table_text(metrics: Mapping[str, Any]) -> str:
    """All tables as plain text, and the notes."""
    parts = [f"{one.caption}\n\n{aligned_table(one.head, one.rows, one.left)}" for one in tables(metrics)]
    parts += [f"note: {note}" for note in metrics["notes"]]
    return "\n\n".join(parts) or "nothing was asked"


def tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Those that have rows: summary, categories, descriptions, positions."""
    found = [_summary(metrics), *_categories(metrics), *_descriptions(metrics), _positions(metrics)]
    return [one for one in found if one.rows]


def provenance_tables(provenance: Mapping[str, Any]) -> list[Table]:
    """First each setting that differs between models, then all the others."""
    models = {str(model["name"]): dict(_flat(model)) for model in provenance.get("models", ())}
    keys = [key for key in dict.fromkeys(key for settings in models.values() for key in settings) if key != "name"]
    values = [[key, *(settings.get(key, DASH) for settings in models.values())] for key in keys]
    differs = [row for row in values if len(set(row[1:])) > 1]
    shared = [list(pair) for pair in _flat({key: one for key, one in provenance.items() if key != "models"})]
    shared += [row[:2] for row in values if row not in differs]
    found = [
        Table("provenance", "What differs between the models.", ["setting", *models], differs, texts=True),
        Table("provenance", "The same for all.", ["setting", "value"], shared, texts=True),
    ]
    return [one for one in found if one.rows]


def failure_tables(outcomes: Iterable[Outcome], described: Iterable[Described]) -> list[Table]:
    """At most one table: what kept outcomes from a reply or a score, one row for each cause and video."""
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    for one in (*outcomes, *described):
        item, what = one.item if isinstance(one, Outcome) else one.items[0], "no reply"
        if isinstance(one, Described) and one.state == "unjudged" and one.error:
            what = "scores missing"
        elif one.state != FAILED:
            continue
        found.setdefault((what, item.video, one.error), []).append((one.model, item.id))
    if not found:
        return []
    counts = Counter(what for (what, *_), met in found.items() for _ in met)
    caption = f"{' and '.join(f'{count} with {what}' for what, count in counts.items())}, from {len(found)} cause(s)"
    caption += f"; the first {_SHOWN_FAILURES} are listed." if len(found) > _SHOWN_FAILURES else "."
    rows = [
        [what, video, ", ".join(dict.fromkeys(model for model, _ in met)), str(len(met)), _setting(error), met[0][1]]
        for (what, video, error), met in list(found.items())[:_SHOWN_FAILURES]
    ]
    head = ["what", "video", "models", "outcomes", "cause", "first item"]
    return [Table("failures", caption, head, rows, texts=True)]


def readable(text: str) -> str:
    """Without what no UTF-8 file or page can hold: data and replies hold anything."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def group_title(mode: str, view: str) -> str:
    """Mode and view of a table or chart."""
    return f"mode {mode}" + (f", {view} view" if view else "")


def _summary(metrics: Mapping[str, Any]) -> Table:
    rows = [row for row in metrics["accuracy"] if row["category"] == ALL]
    names = _distinguishing(rows)
    counts = ["n", "videos", "parsed", "unparsed", "failed"]
    counts += [name for name in ("judged", MISLABELLED) if any(row[name] for row in rows)]
    head = [*names, "right", "", *_difference_head(metrics), *counts]
    cells = [
        [*(row[name] for name in names), *_accuracy(row), *_difference(metrics, row), *(str(row[n]) for n in counts)]
        for row in rows
    ]
    return Table("summary", _caption(metrics, "Percent right over all questions"), head, cells, len(names))


def _categories(metrics: Mapping[str, Any]) -> Iterator[Table]:
    head = ["category", "model", "right", "", *_difference_head(metrics), "chance", "n", "unparsed", "failed"]
    for mode, view in dict.fromkeys((row["mode"], row["view"]) for row in metrics["accuracy"]):
        rows = [row for row in metrics["accuracy"] if (row["mode"], row["view"]) == (mode, view)]
        cells = [
            [row["category"], row["model"], *_accuracy(row), *_difference(metrics, row), _number(row["chance"]),
             *(str(row[name]) for name in ("n", "unparsed", "failed"))]
            for row in _in_order(rows, ["category"])
        ]  # fmt: skip
        caption = _caption(metrics, f"Percent right by category, {group_title(mode, view)}")
        yield Table("categories", caption, head, cells, 2)


def _descriptions(metrics: Mapping[str, Any]) -> Iterator[Table]:
    """One table a view: category x aspect x model, or only aspect x model where there is one category."""
    counts = ["n", "judged", "missing", "failed"]
    for view in dict.fromkeys(row["view"] for row in metrics["descriptions"]):
        rows = [row for row in metrics["descriptions"] if row["view"] == view]
        # One category is the same as all of them.
        single = len({row["category"] for row in rows}) == 2
        names = ["aspect", "model"] if single else ["category", "aspect", "model"]
        head = [*names, "score", "", *_difference_head(metrics), *counts]
        cells = [
            [
                *(row[name] for name in names),
                *(_number(row["mean"]), _span(row["interval"])),
                *_difference_cells(metrics, row if row["against"] else None, "difference_interval"),
                *(str(row[name]) for name in counts),
            ]
            for row in _in_order([row for row in rows if not single or row["category"] == ALL], names)
        ]
        title = f"Mean score times 20, of 100{f', {view} view' if view else ''}"
        title += "; a missing score is left out, a failed row counts as 0"
        yield Table("descriptions", _caption(metrics, title), head, cells, len(names))


def _positions(metrics: Mapping[str, Any]) -> Table:
    rows = metrics["positions"]
    names = _distinguishing(rows)
    keys = sorted(dict.fromkeys(row["key"] for row in rows), key=lambda key: (len(key), key))
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cell = f"{_number(row['picked_share'])} ({_number(row['right_share'])})"
        found.setdefault(tuple(row[name] for name in names), {})[row["key"]] = cell
    caption = (
        "Percent of the parsed replies that choose each option; in parentheses, percent of the questions whose right "
        "option it is."
    )
    cells = [[*group, *(row.get(key, DASH) for key in keys)] for group, row in found.items()]
    return Table("positions", caption, [*names, *keys], cells, len(names))


def _caption(metrics: Mapping[str, Any], title: str) -> str:
    text = f"{title}; in brackets: {100 * metrics['level']:.0f}% interval, clustered by video"
    against = f"; difference: points against {metrics['compare_to']}, on the same items"
    return f"{text}{against if _difference_head(metrics) else ''}."


def _distinguishing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that distinguish rows: model always, mode and view where there is a choice."""
    return ["model", *(name for name in ("mode", "view") if any(row[name] != rows[0][name] for row in rows))]


def _in_order(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Sorted by these columns, each in the order in which its values first appear."""
    order = {name: list(dict.fromkeys(row[name] for row in rows)) for name in names}
    return sorted(rows, key=lambda row: [order[name].index(row[name]) for name in names])


def _difference_head(metrics: Mapping[str, Any]) -> list[str]:
    return ["difference", ""] if len(metrics["models"]) > 1 else []


def _difference(metrics: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    key = ("model", "mode", "view", "category")
    found = next((one for one in metrics["differences"] if all(one[name] == row[name] for name in key)), None)
    return _difference_cells(metrics, found, "interval")


def _difference_cells(metrics: Mapping[str, Any], found: Mapping[str, Any] | None, interval: str) -> list[str]:
    """Difference and interval; blank for the model that others are compared with, nothing where there is one model."""
    if not _difference_head(metrics):
        return []
    return [_signed(found["difference"]), _span(found[interval], _signed)] if found else ["", ""]


def _accuracy(row: Mapping[str, Any]) -> list[str]:
    return [_number(row["accuracy"]), _span(row["interval"])]


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    """A difference in points, with a real minus sign; no sign where nothing differs."""
    return DASH if value is None else "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", MINUS)


def _span(interval: Sequence[float] | None, show: Callable[[float | None], str] = _number) -> str:
    return DASH if interval is None else f"[{show(interval[0])}, {show(interval[1])}]"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their path in metrics.json: "settings.dtype"."""
    for key, one in value.items():
        if isinstance(one, Mapping) and one:
            yield from _flat(one, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _setting(one)


def _setting(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else str(value)
    if len(text) > _LONGEST_VALUE:
        return f"{text[:_LONGEST_VALUE]} … ({len(text) - _LONGEST_VALUE} more characters)"
    return text or (DASH if isinstance(value, str) else "none")
