"""Data files that somebody else made: links, and JSON that would break what reads it."""

import dataclasses
import json
import tracemalloc
from collections.abc import Callable

import pytest

from llava_ego2exo.cli import main
from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.distill.answer_folder import open_folder
from llava_ego2exo.distill.answers import Answer, read_answers
from llava_ego2exo.distill.egoexo4d_files import take_list
from llava_ego2exo.distill.manifest import read_manifest
from llava_ego2exo.distill.mixing import draw_replayed
from llava_ego2exo.distill.pairs import read_pairs, require_files, write_pairs
from llava_ego2exo.distill.queries import read_queries
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.evaluation.benchmarks import read_benchmark
from llava_ego2exo.evaluation.preparing import read_manifest as read_run
from llava_ego2exo.evaluation.replies import read_replies
from llava_ego2exo.host.data_check import check_data
from llava_ego2exo.runs.json_text import DEFAULT_MB, MAX_LINE, allow_mb, parse_json

from .evaluation.rows import TODAY

pytestmark = pytest.mark.fault


class Settings:
    """What the check of a training file asks of a command line."""

    def __init__(self, **values):
        self.values = values

    def __getitem__(self, name):
        return self.values.get(name)


def samples(path, kind="video", **more):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    return [{"id": "1", kind: path, "conversations": turns, **more}]


def test_links_and_absolute_paths_work(tmp_path):
    """As data sets on a cluster have them: links into a store, and paths that lead out of the data file's folder."""
    folder, store = tmp_path / "data", tmp_path / "store"
    folder.mkdir(), store.mkdir()
    (store / "a.mp4").touch()
    (folder / "link.mp4").symlink_to(store / "a.mp4")
    (folder / "linked").symlink_to(store)
    for path in ("link.mp4", "linked/a.mp4", "../store/a.mp4", str(store / "a.mp4")):
        (folder / "m.csv").write_text(f"segment,ego,exo1\ns,{path},{path}\n")
        pairs, _ = read_manifest(folder / "m.csv")
        require_files(read_pairs(write_pairs(folder / "p.jsonl", pairs)))
        (folder / "t.json").write_text(json.dumps(samples(path)))
        check_data(Settings(data_path=str(folder / "t.json"), video_folder=str(folder)), Ego2ExoConfig())
        assert draw_replayed(str(folder / "t.json"), 1, 0, str(folder), str(folder))


DEEP = "[" * 100_000
ODD = {
    "100,000 lists deep": DEEP + "]" * 100_000, "100,000 objects deep": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "900 deep": "[" * 900 + "]" * 900, "deep and cut": DEEP, "deep in a string's shadow": '["\\"[[[", ' + DEEP,
    "a number of 5,000 digits": "[" + "1" * 5000 + "]", "NaN": "[NaN]", "Infinity": "[-Infinity]",
    "a key twice": '{"segment": 1, "segment": 2}', "half a surrogate pair": '["\\ud800"]',
    "half a pair as a key": '{"\\udfff": 1}', "a null byte": '["\0"]', "nothing": "", "blanks": " \n ", "null": "null",
    "UTF-16": '[{"segment": "a"}]'.encode("utf-16"), "UTF-32": b"\xff\xfe\0\0[\0\0\0", "not UTF-8": b'["\xff"]',
    "two values": "[] []", "a byte order mark twice": b"\xef\xbb\xbf\xef\xbb\xbf[]", "a lone bracket": "]",
    "an object of lists": json.dumps({"a": [[]] * 1000}), "an empty key": '{"": {"": []}}',
}  # fmt: skip


def lines(reader):
    """A reader of a file in a folder of its own."""
    return lambda path: reader(path.parent)


FILES: dict[str, tuple[str, Callable]] = {
    "pairs": ("p.jsonl", read_pairs),
    "manifest": ("m.json", read_manifest),
    "manifest of lines": ("m.jsonl", read_manifest),
    "manifest table": ("m.csv", read_manifest),
    "answers": ("answers.jsonl", lines(read_answers)),
    "answers' manifest": ("manifest.json", lambda path: open_folder(_answered(path.parent), {})),
    "replies": ("replies.jsonl", lines(read_replies)),
    "queries": ("q.json", read_queries),
    "evaluation's manifest": ("run.json", lines(read_run)),
    "takes": ("takes.json", take_list),
    "benchmark": ("b.json", lambda path: read_benchmark("adlx-tsu-tc", path)),
    "training file": ("t.json", lambda path: check_data(Settings(data_path=str(path)), Ego2ExoConfig())),
}


def _answered(folder):
    if not (folder / "answers.jsonl").exists():
        record = Answer("k", "s", "train", "a", "q", "x", (), 1, "v", None, None, "t", {})
        (folder / "answers.jsonl").write_text(json.dumps(dataclasses.asdict(record)) + "\n")
    return folder


@pytest.mark.parametrize("reader", FILES)
def test_odd_json_is_refused_by_the_files_name(reader, tmp_path, fault_table):
    name, read = FILES[reader]
    path = tmp_path / name
    tried = survived = 0
    for content in ODD.values():
        path.write_bytes(content if isinstance(content, bytes) else content.encode() + b"\n")
        tried += 1
        try:
            read(path)
        except Ego2ExoError as error:
            str(error).encode()
            survived += name in str(error)
        else:
            # An empty file of lines holds no record, and a table may hold any text.
            survived += not str(content).strip()
    fault_table(f"odd JSON: {reader}", tried, survived)


@pytest.mark.parametrize("reader", FILES)
def test_a_file_of_a_gigabyte_is_never_in_memory(reader, tmp_path, fault_table):
    """A sparse file: one line of 2^30 null bytes that takes no space on the disk."""
    name, read = FILES[reader]
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**30)
    _answered(tmp_path) if name == "manifest.json" else None
    tracemalloc.start()
    try:
        with pytest.raises(Ego2ExoError, match=name):
            read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    fault_table(f"a file of one line of 1 GiB: {reader}", 1, int(peak < 4 * MAX_LINE))


def test_the_largest_size_is_a_flag(tmp_path, capsys):
    path = tmp_path / "b.json"
    path.write_text(json.dumps([TODAY]) + " " * 2**20)
    check = ["eval", "--check", "--benchmark", "adlx-tsu-tc", "--data", str(path), "--max-json-mb"]
    try:
        assert main([*check, "1"]) == 1 and "--max-json-mb" in capsys.readouterr().err
        assert main([*check, "2"]) == 0
        assert main([*check, "0"]) == 1 and "--max-json-mb 0" in capsys.readouterr().err
        (tmp_path / "t.json").write_text(json.dumps(samples("a.mp4")) + " " * 2**20)
        (tmp_path / "a.mp4").touch()
        settings = {"data_path": str(tmp_path / "t.json"), "video_folder": str(tmp_path)}
        check_data(Settings(**settings, ego2exo_max_json_mb=2), Ego2ExoConfig())
        with pytest.raises(Ego2ExoError, match="t.json has .*1 MiB.*--ego2exo_max_json_mb"):
            check_data(Settings(**settings, ego2exo_max_json_mb=1), Ego2ExoConfig())
    finally:
        allow_mb(DEFAULT_MB)


def test_how_deep_is_an_argument():
    for depth in (1, 5, 64):
        text = "[" * depth + "]" * depth
        assert parse_json(text, depth) == json.loads(text)
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(f"[{text}]", depth)
    assert parse_json('["[[[[", {"]": "\\"["}]', 2) == ["[[[[", {"]": '"['}]
