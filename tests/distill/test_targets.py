"""The training file: draws, bytes, proportions, and every fault named at once."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import cli
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.pairs.pair import Pair

KINDS = ("descriptive", "temporal", "spatial")
TEACHER = sha256(b"teacher").hexdigest()
SETTINGS = {"max_new_tokens": 64, "temperature": 0.0}
BYTES_OF_SEED_7 = "724bb28053033fe3a8c006455f150f0b12f377bd516aa54622632241225f2ca4"


def digest(text):
    return sha256(text.encode()).hexdigest()


class Material:
    """A folder with pairs and answers; the videos are files of a few bytes, which nothing here decodes."""

    def __init__(self, root, segments=4, views=("exo1", "exo2")):
        self.root = root
        self.pairs = [self.pair(f"t{i}_0001", views) for i in range(segments)]
        self.records = [self.record(pair, kind) for pair in self.pairs for kind in KINDS]

    def pair(self, segment, views=("exo1", "exo2"), **values):
        for view in ("ego", *views):
            (self.root / f"{segment}_{view}.mp4").write_text(f"{segment} {view}")
        exo = {view: str(self.root / f"{segment}_{view}.mp4") for view in views}
        return Pair(segment, str(self.root / f"{segment}_ego.mp4"), exo, **values)

    def record(self, pair, kind, **values):
        query = f"A {kind} question?"
        return {
            "key": digest(f"{pair.segment} {kind} {values}")[:32], "segment": pair.segment, "split": pair.split,
            "kind": kind, "query": query, "answer": f"The {kind} answer of {pair.segment}.", "flags": [], "tokens": 7,
            "video": digest(Path(pair.ego).read_text()), "start_s": None, "end_s": None, "teacher": TEACHER,
            "settings": SETTINGS, **values,
        }  # fmt: skip

    def of(self, segment, kind):
        return next(r for r in self.records if (r["segment"], r["kind"]) == (segment, kind))

    def write(self):
        write_pairs(self.root / "pairs.jsonl", self.pairs)
        (self.root / "answers").mkdir(exist_ok=True)
        lines = [json.dumps(record) + "\n" for record in self.records]
        (self.root / "answers/answers.jsonl").write_text("".join(lines))

    def argv(self, *flags, out="train.json"):
        files = ("--pairs", self.root / "pairs.jsonl", "--answers", self.root / "answers", "--out", self.root / out)
        return ["targets", *map(str, (*files, *flags))]

    def run(self, *flags, out="train.json"):
        """The samples that the command writes."""
        self.write()
        assert cli.main(self.argv(*flags, out=out)) == 0
        return json.loads((self.root / out).read_text())

    def fail(self, *flags, capsys, write=True):
        """The error's text; nothing is written."""
        if write:
            self.write()
        capsys.readouterr()
        assert cli.main(self.argv(*flags)) == 1
        assert not (self.root / "train.json").exists() and not list(self.root.glob(".*part"))
        return capsys.readouterr().err


@pytest.fixture
def material(tmp_path):
    return Material(tmp_path)


def general(root, count=30, kind="image"):
    """A LLaVA JSON with as many samples of general data."""
    folder = root / "general"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_text("picture")
    samples = [
        {"id": f"general_{i}", **({kind: "a.png"} if kind else {}), "conversations": [
            {"from": "human", "value": f"{'<image>' if kind else ''}\nQuestion {i}?"},
            {"from": "gpt", "value": f"Answer {i}."},
        ]}
        for i in range(count)
    ]  # fmt: skip
    (folder / "other.json").write_text(json.dumps(samples))
    return folder / "other.json"


def test_a_sample(material, capsys):
    samples = material.run("--seed", "5")
    assert len(samples) == len({sample["id"] for sample in samples}) == 12
    for sample in samples:
        segment, view = sample["segment"], sample["view"]
        record = material.of(segment, sample["id"].removeprefix(f"{segment}_{view}_"))
        assert sample["video"] == f"{segment}_{view}.mp4" and sample["ego_video"] == f"{segment}_ego.mp4"
        assert sample["answer_keys"] == [record["key"]]
        human, gpt = sample["conversations"]
        assert human["value"] in (f"<image>\n{record['query']}", f"{record['query']}\n<image>")
        assert (human["from"], gpt) == ("human", {"from": "gpt", "value": record["answer"]})
        assert set(sample) == {"id", "video", "ego_video", "segment", "view", "answer_keys", "conversations"}
    report = capsys.readouterr().out
    assert "samples: 12 from 4 segment(s)" in report and f"teacher {TEACHER[:12]}:" in report
    assert report.splitlines()[-1] == f"  --data_path {material.root}/train.json --video_folder {material.root}"


def test_all_turns_of_a_segment_in_one_conversation_and_all_views(tmp_path):
    material = Material(tmp_path, segments=30)
    samples = material.run("--turns", "all")
    assert [sample["segment"] for sample in samples] == [pair.segment for pair in material.pairs]
    orders, records = Counter(), {record["key"]: record for record in material.records}
    for sample in samples:
        turns = sample["conversations"]
        assert [turn["value"].count("<image>") for turn in turns] == [1, 0, 0, 0, 0, 0]
        asked = [records[key] for key in sample["answer_keys"]]
        assert [turn["value"] for turn in turns[1::2]] == [record["answer"] for record in asked]
        queries = [turn["value"].replace("<image>", "").strip() for turn in turns[::2]]
        assert queries == [record["query"] for record in asked]
        orders[tuple(record["kind"] for record in asked)] += 1
    assert len(orders) == 6  # every order of three turns occurs
    seen = Counter((sample["segment"], sample["view"]) for sample in material.run("--views", "all"))
    assert seen == {(pair.segment, view): 3 for pair in material.pairs for view in ("exo1", "exo2")}


def test_splits_and_video_folders(material, tmp_path, capsys):
    material.pairs.append(material.pair("küche_0001", split="val"))
    material.records += [material.record(material.pairs[-1], "temporal", answer="Zuerst die Schüssel. 然后")]
    assert {sample["segment"] for sample in material.run()} == {pair.segment for pair in material.pairs[:-1]}
    (sample,) = material.run("--split", "val", "--allow-missing")
    assert sample["segment"] == "küche_0001" and sample["conversations"][1]["value"] == "Zuerst die Schüssel. 然后"
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    samples = material.run("--video-folder", elsewhere)
    assert all(os.path.isabs(sample["video"]) and os.path.isfile(sample["video"]) for sample in samples)
    assert f"--video_folder '{elsewhere}'" in capsys.readouterr().out
    samples = material.run("--video-folder", tmp_path.parent)
    assert all(sample["ego_video"] == f"{tmp_path.name}/{sample['segment']}_ego.mp4" for sample in samples)


def test_draws_are_fair_independent_and_of_the_seed(tmp_path):
    """400 samples: 0.35 to 0.65 is six standard deviations."""
    material = Material(tmp_path, segments=134)
    samples = material.run()
    views = [sample["view"] == "exo1" for sample in samples]
    leads = [sample["conversations"][0]["value"].startswith("<image>") for sample in samples]
    same = [one == other for one, other in zip(views, leads, strict=True)]
    assert all(0.35 < sum(draws) / len(samples) < 0.65 for draws in (views, leads, same))
    assert material.run("--seed", "1") != samples
    material.pairs.insert(1, material.pair("new_0001"))  # one pair more changes no other sample
    material.records += [material.record(material.pairs[1], kind) for kind in KINDS]
    assert [sample for sample in material.run() if sample["segment"] != "new_0001"] == samples


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(-5, 2**40), order=st.randoms(use_true_random=False), turns=st.sampled_from(["one", "all"]))
def test_same_seed_same_bytes_whatever_the_order(material, seed, order, turns):
    """Of the answers, of the keys in a record, and of the views of a pair."""
    flags = ("--seed", seed, "--turns", turns, "--mix", general(material.root), "--mix-ratio", "0.25")
    material.run(*flags)
    pairs = material.pairs
    order.shuffle(material.records)
    material.records = [dict(order.sample(list(r.items()), len(r))) for r in material.records]
    material.pairs = [replace(p, exo=dict(order.sample(list(p.exo.items()), len(p.exo)))) for p in pairs]
    material.run(*flags, out="again.json")
    material.pairs = pairs
    assert (material.root / "again.json").read_bytes() == (material.root / "train.json").read_bytes()


def test_the_bytes_change_neither_between_processes_nor_versions(material):
    """A run resumes with the file it began with: a new hash means that all users' files change."""
    material.write()
    code = "import sys; from llava_ego2exo.cli import main; code = main(sys.argv[1:])\n"
    code += "print(sorted({'torch', 'transformers', 'llava', 'numpy', 'av'} & set(sys.modules))); sys.exit(code)"
    command = [sys.executable, "-c", code, *material.argv("--seed", "7")]
    env = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"  # nothing heavy is imported
    assert sha256((material.root / "train.json").read_bytes()).hexdigest() == BYTES_OF_SEED_7


def test_flagged_answers_are_dropped_and_named_or_kept(material, capsys):
    material.of("t0_0001", "temporal").update(flags=["cut"])
    material.of("t1_0001", "spatial").update(flags=["repeats", "cut"])
    assert len(material.run()) == 10
    report = capsys.readouterr().out
    assert "cut: 2 answer(s): t0_0001 temporal; t1_0001 spatial" in report and "repeats: 1 answer(s): t1_0" in report
    turns = {sample["segment"]: sample for sample in material.run("--turns", "all")}
    assert len(turns["t0_0001"]["answer_keys"]) == 2
    material.of("t2_0001", "spatial").update(answer="I see <image> here.")  # never used, flagged or not
    material.of("t3_0001", "spatial").update(answer="A <video> of it.")
    capsys.readouterr()
    assert len(material.run("--flagged", "keep")) == 10
    assert "dropped, placeholder: 2 answer(s)" in capsys.readouterr().out
    for record in material.records:
        record["flags"] = ["repeats"]
    (material.root / "train.json").unlink()
    material.records[3]["flags"] = ["cut"]
    error = material.fail(capsys=capsys)
    assert "repeats 11" in error and "--flagged keep" in error and "--max-new-tokens" in error


def test_the_ratio_is_of_all_samples(material, capsys):
    plain = material.run()
    samples = material.run("--mix", general(material.root), "--mix-ratio", 0.5)
    replayed = [sample for sample in samples if sample.get("replay")]
    assert [sample for sample in samples if "replay" not in sample] == plain
    assert len({sample["id"] for sample in replayed}) == len(replayed) == 12
    places = [index for index, sample in enumerate(samples) if "replay" in sample]
    assert places != list(range(12)) and places != list(range(12, 24))
    report = capsys.readouterr().out
    assert "50.0% of all" in report and f"--image_folder {material.root}/general" in report


def test_what_is_replayed(material, capsys):
    file = general(material.root)
    drawn = {tuple(s["id"] for s in material.run("--mix", file, "--seed", n) if "replay" in s) for n in range(4)}
    assert len(drawn) > 2
    file.write_text(json.dumps(json.loads(file.read_text())[:1] * 3))  # each of three equal samples may be drawn
    assert sum("replay" in sample for sample in material.run("--mix", file)) == 3
    capsys.readouterr()
    assert sum("replay" in sample for sample in material.run("--mix", general(material.root, kind=None))) == 3
    assert "--image_folder" not in capsys.readouterr().out  # text alone needs none
    file = general(material.root, kind="video")
    (material.root / "general/a.png").rename(material.root / "a.png")
    flags = ("--mix", file, "--mix-video-folder", material.root)
    samples = material.run(*flags, "--video-folder", file.parent)
    assert {sample["video"] for sample in samples if "replay" in sample} == {str(material.root / "a.png")}


def test_faulty_samples_to_replay(material, capsys):
    file = general(material.root, 4)
    samples = json.loads(file.read_text())
    samples[0]["image"] = "absent.png"
    samples[1]["conversations"][0]["value"] = "no placeholder"
    samples[2]["ego_video"] = "a.mp4"
    samples[3] = "no sample"
    file.write_text(json.dumps(samples))
    error = material.fail("--mix", file, "--mix-ratio", "0.25", capsys=capsys)
    assert all(part in error for part in ("4 fault(s)", "absent.png", "[1]: ", "[2]: is of distillation", "[3]: "))


@pytest.mark.parametrize(
    ("flags", "token"),
    [
        (["--mix", "OTHER", "--mix-ratio", "0.9"], "30 samples"),
        (["--mix", "OTHER", "--mix-ratio", "1"], "--mix-ratio 1.0"),
        (["--mix-ratio", "0.2", "--mix-video-folder", "x"], "--mix-ratio, --mix-video-folder without --mix"),
        (["--mix", "absent.json"], "--mix absent.json"),
        (["--video-folder", "absent"], "--video-folder absent"),
        (["--out", "train.jsonl"], "--out train.jsonl"),
        (["--mix", "OTHER", "--out", "OTHER"], "would overwrite"),
        (["--split", "val"], "train (4)"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(material, flags, token, capsys):
    other = str(general(material.root))
    assert token in material.fail(*(other if flag == "OTHER" else flag for flag in flags), capsys=capsys)


def test_answers_and_pairs_that_do_not_match(material, capsys):
    material.records = [r for r in material.records if (r["segment"], r["kind"]) != ("t1_0001", "temporal")]
    gone = material.pairs.pop()
    error = material.fail(capsys=capsys)
    assert f"the pairs lack: {gone.segment} descriptive; " in error and "are missing: t1_0001 temporal" in error
    assert len(material.run("--allow-missing")) == 8
    assert capsys.readouterr().out.count("allowed: ") == 2
    (material.root / "train.json").unlink()
    (material.root / "answers/answers.jsonl").rename(material.root / "answers/answers.part-00000.jsonl")
    assert "not finished" in material.fail(capsys=capsys, write=False)


def test_answers_of_two_teachers_or_settings(material, capsys):
    other, hot = sha256(b"other").hexdigest(), {**SETTINGS, "temperature": 0.7, "top_p": None}
    first, both = list(material.records), [(pair, kind) for pair in material.pairs for kind in KINDS]
    more = [material.record(*one, teacher=other) for one in both]
    material.records = first + more
    error = material.fail(capsys=capsys)
    assert TEACHER[:12] in error and other[:12] in error and "(12 answers)" in error
    keys = {key for sample in material.run("--teacher", other[:8]) for key in sample["answer_keys"]}
    assert keys == {record["key"] for record in more}
    (material.root / "train.json").unlink()
    assert "--teacher zzz" in material.fail("--teacher", "zzz", capsys=capsys)
    more = [material.record(*one, settings=hot) for one in both]
    material.records = first + more
    error = material.fail("--teacher", TEACHER, capsys=capsys)
    assert "temperature" in error and "max_new_tokens" not in error
    name = error.split("; ")[1].split(" ")[0]
    keys = {key for sample in material.run("--teacher", name) for key in sample["answer_keys"]}
    assert keys == {record["key"] for record in more}


def test_all_faults_in_one_message(material, capsys):
    material.pairs.append(material.pair("t4_0001"))
    material.records += [material.record(material.pairs[4], kind) for kind in KINDS]
    (material.root / "t0_0001_exo1.mp4").unlink()
    material.pairs[1] = replace(material.pairs[1], start_s=1.0, end_s=2.0)
    material.pairs[3] = replace(material.pairs[3], offset_s=0.25)
    material.records = [record for record in material.records if record["segment"] != "t2_0001"]
    material.records.append(material.record(material.pair("x_0001"), "temporal"))
    material.records.append(material.record(material.pairs[0], "temporal", query="Another wording?"))
    material.of("t4_0001", "temporal").update(query="<image>\nWhat first?")
    error = material.fail(capsys=capsys)
    for part in (
        "2 pair(s) are parts", "t0_0001 exo1: ", "pairs lack: x_0001", "3 answer(s) of the pairs",
        "of other queries: t0_0001 temporal", "holds <image>: t4_0001 temporal",
    ):  # fmt: skip
        assert part in error


def test_ego_videos_are_those_that_the_teacher_saw(material, capsys):
    for record in material.records[:3]:
        record.update(start_s=4.0, end_s=6.0, video=digest("the long recording"))
    assert len(material.run()) == 12
    assert "matched by name alone: 1 segment(s)" in capsys.readouterr().out
    (material.root / "train.json").unlink()
    (material.root / "t3_0001_ego.mp4").write_text("another take")
    assert "1 ego video(s)" in material.fail(capsys=capsys)
