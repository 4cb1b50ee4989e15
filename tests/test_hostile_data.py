"""Data files that somebody else made: paths that lead out of their folder, and JSON that would break what reads it."""

import dataclasses
import json
import tracemalloc
from collections.abc import Callable

import pytest

from llava_ego2exo.cli import main
from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.distill.answer_folder import open_folder
from llava_ego2exo.distill.answers import Answer, read_answers, write_answers
from llava_ego2exo.distill.egoexo4d_files import take_list
from llava_ego2exo.distill.manifest import read_manifest
from llava_ego2exo.distill.mixing import draw_replayed
from llava_ego2exo.distill.pair_lines import outside_files
from llava_ego2exo.distill.pairs import Pair, read_pairs, write_pairs
from llava_ego2exo.distill.queries import read_queries
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.evaluation.benchmarks import read_benchmark
from llava_ego2exo.evaluation.items import Item
from llava_ego2exo.evaluation.preparing import read_manifest as read_run
from llava_ego2exo.evaluation.replies import read_replies
from llava_ego2exo.evaluation.videos import find_videos
from llava_ego2exo.host.data_check import check_data
from llava_ego2exo.runs.json_text import DEFAULT_MB, MAX_LINE, allow_mb, parse_json

from .evaluation.rows import TODAY

pytestmark = pytest.mark.fault


@pytest.fixture
def place(tmp_path):
    """A folder of data with a secret beside it, and every way that leads there."""
    folder, secret = tmp_path / "data", tmp_path / "secret"
    (folder / "in").mkdir(parents=True)
    secret.mkdir()
    for file in (secret / "s.mp4", folder / "a.mp4", folder / "in" / "b.mp4"):
        file.touch()
    (folder / "link.mp4").symlink_to(secret / "s.mp4")
    (folder / "relative.mp4").symlink_to("../secret/s.mp4")
    (folder / "chain.mp4").symlink_to(folder / "link.mp4")
    (folder / "folder").symlink_to(secret)
    (folder / "within.mp4").symlink_to("in/b.mp4")
    (folder / "deep").symlink_to("in")
    (tmp_path / "data-beside").mkdir()
    (tmp_path / "data-beside" / "s.mp4").touch()
    (tmp_path / "whole").symlink_to(folder)
    return folder


def ways_out(place):
    return [
        "../secret/s.mp4", "in/../../secret/s.mp4", str(place.parent / "secret" / "s.mp4"), "link.mp4", "relative.mp4",
        "chain.mp4", "folder/s.mp4", "./folder/../folder/s.mp4", "../data-beside/s.mp4", "/etc/hostname",
        "deep/../../secret/s.mp4", "../secret/is-not-there.mp4",
    ]  # fmt: skip


GOOD = ("a.mp4", "in/b.mp4", "in/../a.mp4", "./a.mp4", "within.mp4", "deep/b.mp4")


def from_pairs(folder, path, allowed):
    file = folder / "p.jsonl"
    for record in ({"ego": path, "exo": {"exo1": "a.mp4"}}, {"ego": "a.mp4", "exo": {"exo1": "a.mp4", "exo2": path}}):
        file.write_text(json.dumps({"segment": "s", **record}) + "\n")
        read_pairs(file, allow_outside=allowed)


def from_manifest(folder, path, allowed):
    file = folder / "m.csv"
    file.write_text(f"segment,ego,exo1\ns,a.mp4,{path}\n")
    read_manifest(file, None, None, allowed)
    file.write_text(f"segment,ego,exo1\ns,{path},a.mp4\n")
    read_manifest(file, folder, None, allowed)


class Settings:
    """What the check of a training file asks of a command line."""

    def __init__(self, **values):
        self.values = values

    def __getitem__(self, name):
        return self.values.get(name)


def samples(path, kind="video", **more):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    return [{"id": "1", kind: path, "conversations": turns, **more}]


def from_training(kind):
    def read(folder, path, allowed):
        file = folder / "t.json"
        file.write_text(json.dumps(samples(path, kind)))
        folders = {"video_folder": str(folder), "image_folder": str(folder)}
        check_data(Settings(data_path=str(file), ego2exo_allow_outside=allowed, **folders), Ego2ExoConfig())

    return read


def from_mix(folder, path, allowed):
    (folder / "t.json").write_text(json.dumps(samples(path)))
    draw_replayed(str(folder / "t.json"), 1, 0, str(folder), str(folder), allowed)


def from_teacher(folder, path, allowed):
    pytest.importorskip("torch")
    from llava_ego2exo.config import DistillConfig
    from llava_ego2exo.host.teacher_checks import SampleCheck

    settings = Settings(video_folder=str(folder), ego2exo_allow_outside=allowed)
    faults = list(SampleCheck(settings, DistillConfig(kd_weight=1.0))(samples("a.mp4", ego_video=path)[0]))
    if faults:
        raise Ego2ExoError(faults[0])


def from_benchmark(folder, path, allowed):
    item = Item("i", "b", "", "", path, "What?", choices={"A": "x", "B": "y"}, answer="A")
    if not find_videos([item], folder, allow_outside=allowed).items[0].path:
        raise Ego2ExoError(f"{path} leads out of the folder or is not there")


READERS: dict[str, Callable] = {
    "pairs": from_pairs, "manifest": from_manifest, "training video": from_training("video"),
    "training image": from_training("image"), "replayed data": from_mix, "teacher's video": from_teacher,
    "benchmark": from_benchmark,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_paths_stay_in_their_folder(reader, place, fault_table):
    read = READERS[reader]
    for folder in (place, place.parent / "whole"):  # a folder that is a link itself is fine
        for path in GOOD:
            # Names of a benchmark are looked up as they stand, and a folder with two ways to it has one name.
            if reader != "benchmark" or not {"..", "deep"} & set(path.split("/")):
                read(folder, path, False)
    tried = survived = 0
    for path in ways_out(place):
        tried += 1
        try:
            read(place, path, False)
        except Ego2ExoError as error:
            survived += "out of" in str(error)
    fault_table(f"paths that lead out: {reader}", tried, survived)
    for path in ("link.mp4", "folder/s.mp4", "../secret/s.mp4"):
        if reader != "benchmark" or ".." not in path:
            read(place, path, True)


def test_the_error_names_the_flag_and_the_link(place):
    with pytest.raises(
        Ego2ExoError, match="link.mp4 leads out of .*data by a link.*links into a store.*--allow-outside"
    ):
        from_pairs(place, "link.mp4", False)
    with pytest.raises(Ego2ExoError, match="leads out of .*--ego2exo_allow_outside True, where you trust the file"):
        from_training("video")(place, "../secret/s.mp4", False)


def test_pairs_that_lie_elsewhere_say_what_reads_them(place, tmp_path, capsys):
    for name in ("t_ego.mp4", "t_exo1.mp4"):
        (place / name).touch()
    build = ["pairs", "build", "--videos", str(place), "--out"]
    assert main([*build, str(place / "p.jsonl")]) == 0
    assert "--allow-outside" not in capsys.readouterr().out
    assert main([*build, str(tmp_path / "else" / "p.jsonl")]) == 0
    text = capsys.readouterr().out
    assert "2 path(s) lead out of" in text and "p.jsonl --allow-outside" in text
    assert len(outside_files(read_pairs(tmp_path / "else" / "p.jsonl", True), tmp_path / "else" / "p.jsonl")) == 2
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"segment,ego,exo1\ns,{place}/t_ego.mp4,{place}/../secret/s.mp4\n")
    again = ["pairs", "build", "--manifest", str(manifest), "--videos", str(place), "--out", str(tmp_path / "q.jsonl")]
    assert main(again) == 1 and "lead out of" in capsys.readouterr().err and not (tmp_path / "q.jsonl").exists()
    assert main([*again, "--allow-outside"]) == 0


def test_targets_says_what_training_will_need(place, tmp_path, capsys):
    """Pairs outside of --video-folder become absolute paths, and the flags to train with say so."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("s_ego.mp4", "s_exo1.mp4"):
        (videos / name).write_bytes(name.encode())
    from llava_ego2exo.runs.hashes import file_hash

    answer = Answer("ab" * 16, "s", "train", "k", "What?", "That.", (), 1, file_hash(str(videos / "s_ego.mp4")), None,
                    None, "t", {})  # fmt: skip
    write_answers(tmp_path / "answers", [answer])
    write_pairs(videos / "p.jsonl", [Pair("s", videos / "s_ego.mp4", {"exo1": videos / "s_exo1.mp4"})])
    command = ["targets", "--pairs", str(videos / "p.jsonl"), "--answers", str(tmp_path / "answers"), "--out"]
    assert main([*command, str(tmp_path / "t.json")]) == 0
    assert "allow_outside" not in capsys.readouterr().out
    assert main([*command, str(tmp_path / "t.json"), "--video-folder", str(place)]) == 0
    assert "--ego2exo_allow_outside True" in capsys.readouterr().out


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
