"""Fuzz everything that reads a data file: whatever its bytes are, it ends in a result or in a named refusal.

    python scripts/fuzz_readers.py                              # 2,000 files a reader
    python scripts/fuzz_readers.py --examples 5000 --seconds 600
    python scripts/fuzz_readers.py --reader pairs --seed 7      # one reader, other files

Files are made by hypothesis from whole ones: values replaced, dropped and doubled anywhere in them, then text and bytes
inserted, cut off and changed. A file that ends in anything else is made as small as it can be and shown; the exit code
is then 1.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import table
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from llava_ego2exo.config import Ego2ExoConfig  # noqa: E402
from llava_ego2exo.distill.answers import Answer, read_answers, write_answers  # noqa: E402
from llava_ego2exo.distill.egoexo4d import read_takes  # noqa: E402
from llava_ego2exo.distill.manifest import read_manifest  # noqa: E402
from llava_ego2exo.distill.mixing import draw_replayed  # noqa: E402
from llava_ego2exo.distill.pair_lines import scan_pairs  # noqa: E402
from llava_ego2exo.distill.pairs import read_pairs, write_pairs  # noqa: E402
from llava_ego2exo.distill.queries import read_queries  # noqa: E402
from llava_ego2exo.distill.targets import Choices, make_samples, write_samples  # noqa: E402
from llava_ego2exo.errors import Ego2ExoError  # noqa: E402
from llava_ego2exo.evaluation.benchmarks import read_benchmark  # noqa: E402
from llava_ego2exo.evaluation.replies import Reply, read_replies  # noqa: E402
from llava_ego2exo.evaluation.videos import find_videos  # noqa: E402
from llava_ego2exo.host.data_check import check_data  # noqa: E402
from tests.evaluation.rows import FILES as BENCHMARKS  # noqa: E402

BATCH = 250
PAIR = {"segment": "a", "take": "t", "ego": "a_ego.mp4", "exo": {"exo1": "a_exo1.mp4"}, "start_s": 1, "end_s": 2.5,
        "offset_s": -0.5, "split": "train"}  # fmt: skip
ROW = {"segment": "a", "ego": "a_ego.mp4", "exo1": "a_exo1.mp4", "exo:front": "b.mp4", "start_s": 0.5}
ANSWER = dataclasses.asdict(
    Answer("ab" * 16, "a", "train", "temporal", "What?", "She pours.", ("cut",), 3, "v", None, 1.5, "t", {"bits": 16})
)
REPLY = dataclasses.asdict(Reply("i", "ab" * 16, "A", {"A": -0.5}, ("empty",), 2))
SAMPLE = {
    "id": "1", "video": "a_exo1.mp4", "ego_video": "a_ego.mp4", "replay": False, "answer_keys": ["ab" * 16],
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}],
}  # fmt: skip
GENERAL = {name: SAMPLE[name] for name in ("id", "video", "conversations")}
TAKE = {
    "take_uid": "u", "take_name": "k_1", "root_dir": "takes/k_1", "best_exo": "cam01",
    "capture": {"cameras": [{"cam_id": "aria01", "is_ego": True}, {"cam_id": "cam01", "is_ego": False}]},
    "frame_aligned_videos": {"aria01": {"rgb": {"relative_path": "x/aria01.mp4"}},
                             "cam01": {"0": {"relative_path": "x/cam01.mp4"}}},
}  # fmt: skip
STEPS = {"annotations": {"u": {"take_name": "k_1", "scenario": "c", "segments": [{"start_time": 0.5, "end_time": 2}]}}}
SNIPPETS = [
    "", "[", "]", "{", "}", ",", ":", '"', "\\", "\\u0000", "\\ud800", "NaN", "-Infinity", "1e999", "9" * 60, "null",
    "true", "\n", "\r\n", "\t", ";", "\0", "\ufeff", "../", "/etc/passwd", "<image>", "[" * 70, '{"a":' * 70,
    "\N{GRINNING FACE}", "é", "-0", "0x1", "'", "//",
]  # fmt: skip
TEXTS = st.text(max_size=6) | st.sampled_from([*SNIPPETS, "a", "train", "exo1", "A", "x" * 300])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Args:
        file: name of what it reads.
        whole: values of whole files, or their texts.
        lines: whether a file holds one value a line.
        read: (file) -> anything.
    """

    file: str
    whole: tuple[Any, ...]
    lines: bool
    read: Callable[[Path], object]


@dataclasses.dataclass
class Count:
    """What came of the files of one reader."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)


class Settings(dict):
    """What the check of a training file asks of a command line."""

    values: dict[str, Any] = {}

    def __missing__(self, _name: str) -> None:
        return None


def targets() -> dict[str, Target]:
    """Every reader by its name."""
    found = {
        "pairs": Target("p.jsonl", ([PAIR, {**PAIR, "segment": "b"}],), True, _pairs),
        "manifest, JSON": Target("m.json", ([ROW, PAIR],), False, read_manifest),
        "manifest, lines": Target("m.jsonl", ([ROW, PAIR],), True, read_manifest),
        "manifest, table": Target("m.csv", (_table(","), _table(";")), False, read_manifest),
        "answers": Target("answers.jsonl", ([ANSWER, {**ANSWER, "segment": "b"}],), True, _answers),
        "answers of a run": Target("answers.part-0.jsonl", ([ANSWER],), True, lambda path: read_answers(path.parent)),
        "replies": Target("replies.jsonl", ([REPLY],), True, lambda path: read_replies(path.parent)),
        "queries": Target("q.json", ({"temporal": ["What?", "And then?"]},), False, read_queries),
        "training file": Target("t.json", ([SAMPLE, {**SAMPLE, "video": "b.mp4"}],), False, _training),
        "replayed data": Target("t.json", ([GENERAL, {**GENERAL, "image": "b.mp4"}],), False, _replayed),
        "Ego-Exo4D takes": Target("takes.json", ([TAKE],), False, lambda path: _takes(path, "takes.json")),
        "Ego-Exo4D keysteps": Target("keystep_train.json", (STEPS,), False, lambda path: _takes(path, "keysteps")),
    }  # fmt: skip
    for name, files in BENCHMARKS.items():
        found[name] = Target("b.json", tuple(files), False, lambda path, name=name: _benchmark(path, name))
    return found


def _table(sign: str) -> str:
    cells = ["segment", "take", "ego", "exo1", "start_s", "split"], ["a", "t", "e.mp4", "x.mp4", "0.5", "val"]
    return "\n".join(map(sign.join, cells))


def _pairs(path: Path) -> None:
    scan_pairs(path)
    pairs = read_pairs(path)
    again = write_pairs(path.with_name("again.jsonl"), pairs)
    if read_pairs(again) != pairs:
        raise AssertionError("what was read is not what is written")
    read_pairs(path)


def _answers(path: Path) -> None:
    answers = read_answers(path.parent)
    again = path.parent / "again"
    write_answers(again, answers)
    if read_answers(again) != answers:
        raise AssertionError("what was read is not what is written")
    pairs = path.with_name("p.jsonl")
    pairs.write_text(json.dumps({**PAIR, "start_s": None, "end_s": None}) + "\n")
    samples, _ = make_samples(read_pairs(pairs), answers, Choices(str(path.parent), turns="all", flagged="keep"))
    write_samples(path.with_name("t.json"), samples)


def _training(path: Path) -> None:
    folders = {"video_folder": str(path.parent), "image_folder": str(path.parent)}
    check_data(Settings(data_path=str(path), **folders), Ego2ExoConfig())  # type: ignore[arg-type]


def _replayed(path: Path) -> None:
    drawn = draw_replayed(str(path), 1, 0, str(path.parent), str(path.parent))
    write_samples(path.with_name("out.json"), drawn)


def _takes(path: Path, changed: str) -> None:
    root = path.parent / "root"
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "takes.json").write_text(json.dumps([TAKE]))
    (root / "annotations" / "keystep_train.json").write_text(json.dumps(STEPS))
    place = root / "takes.json" if changed == "takes.json" else root / "annotations" / path.name
    place.write_bytes(path.read_bytes())
    folder = root / "takes/k_1/frame_aligned_videos/downscaled/448"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("aria01.mp4", "cam01.mp4"):
        (folder / name).touch()
    found = read_takes(root)
    if not found.pairs:
        raise AssertionError("no pair and no refusal")


def _benchmark(path: Path, name: str) -> None:
    found = read_benchmark(name, path, max_bad=1)
    for item in found.items:
        json.dumps(dataclasses.asdict(item)).encode()
    find_videos(found.items, path.parent)


@st.composite
def contents(draw: Any, target: Target) -> bytes:
    """Bytes of a file that is almost a whole one."""
    value = copy.deepcopy(draw(st.sampled_from(target.whole)))
    if isinstance(value, str):
        text = value
    else:
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
            value = draw(changed(value))
        dump = {"ensure_ascii": draw(st.booleans())}
        rows = value if target.lines and isinstance(value, list) else None
        text = json.dumps(value, **dump) if rows is None else "".join(json.dumps(row, **dump) + "\n" for row in rows)
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(TEXTS) + text[place + draw(st.integers(0, 3)) :]
    content = text.encode("utf-8", "surrogatepass")
    way = draw(st.sampled_from(["whole"] * 10 + ["cut", "byte", "UTF-16", "marked", "bytes"]))
    if way == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if way == "byte" and content:
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
    if way == "bytes":
        return draw(st.binary(max_size=80))
    return {"UTF-16": text.encode("utf-16", "surrogatepass"), "marked": b"\xef\xbb\xbf" + content}.get(way, content)


@st.composite
def changed(draw: Any, value: Any) -> Any:
    """A value with something in it replaced, dropped, doubled or added."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    way = draw(st.sampled_from(["in", "in", "in", "drop", "add"]))
    if way == "in":
        value[key] = draw(changed(value[key]))
    elif way == "drop":
        del value[key]
    elif isinstance(value, dict):
        value[draw(TEXTS | st.sampled_from(keys).map(str))] = draw(VALUES | st.just(copy.deepcopy(value[key])))
    else:
        value.insert(key, copy.deepcopy(value[key]))
    return value


def fuzz(target: Target, examples: int, until: float, first: int) -> Count:
    """Try files until there were `examples`, or the clock (`time.monotonic`) says `until`."""
    count, batch = Count(), 0
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a_ego.mp4", "a_exo1.mp4", "b.mp4"):
            Path(folder, name).touch()
        while count.tried < examples and time.monotonic() < until and not count.lost:
            _batch(target, min(BATCH, examples - count.tried), first * 10_000 + batch, Path(folder), count)
            batch += 1
    return count


def _batch(target: Target, examples: int, number: int, folder: Path, count: Count) -> None:
    kept: list[bytes] = []

    @seed(number)
    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck),
              report_multiple_bugs=False, print_blob=False)  # fmt: skip
    @given(contents(target))
    def one(content: bytes) -> None:
        kept[:] = [content]
        path = folder / target.file
        path.write_bytes(content)
        count.tried += 1
        try:
            target.read(path)
            count.read += 1
        except Ego2ExoError as error:
            str(error).encode()
            count.refused += 1

    try:
        one()
    except Exception as error:  # whatever a reader lets through is what is looked for
        count.lost.append(f"{type(error).__name__}: {str(error)[:200]} of {kept[0][:300]!r}")


def main() -> int:
    """Fuzz and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--examples", type=int, default=2000, help="files a reader (2000)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after these, for all readers together (3600)")
    parser.add_argument("--reader", choices=list(targets()), action="append", help="this one alone; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="other files (0)")
    args = parser.parse_args()
    started, rows, lost = time.monotonic(), [], []
    chosen = {name: target for name, target in targets().items() if not args.reader or name in args.reader}
    for place, (name, target) in enumerate(chosen.items()):
        # The time that is left is shared by the readers that are left.
        share = (args.seconds - (time.monotonic() - started)) / (len(chosen) - place)
        count = fuzz(target, args.examples, time.monotonic() + share, args.seed)
        rows.append([name, count.tried, count.read, count.refused, len(count.lost)])
        lost += [f"{name}: {line}" for line in count.lost]
    total = ["**together**", *(sum(row[column] for row in rows) for column in range(1, 5))]
    heads = ["reader", "files", "read", "refused by name", "lost"]
    print(
        "\n".join([*table(heads, [*rows, total]), "", f"{time.monotonic() - started:.0f} s, seed {args.seed}", *lost])
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
