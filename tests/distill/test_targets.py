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

from llava_ego2exo import Ego2ExoError, cli
from llava_ego2exo.distill.pairs.file import Pair, read_pairs, write_pairs

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

    def write(self, name="answers.jsonl"):
        write_pairs(self.root / "pairs.jsonl", self.pairs)
        answers = self.root / "answers"
        answers.mkdir(exist_ok=True)
        (answers / name).write_text("".join(json.dumps(record) + "\n" for record in self.records))
        return self

    def argv(self, *flags, out="train.json"):
        files = ("--pairs", self.root / "pairs.jsonl", "--answers", self.root / "answers", "--out", self.root / out)
        return ["targets", *map(str, (*files, *flags))]

    def run(self, *flags, out="train.json"):
        """The samples that the command writes."""
        self.write()
        assert cli.main(self.argv(*flags, out=out)) == 0
        return json.loads((self.root / out).read_text())

    def fail(self, *flags, capsys, write=True):
        """The error's line; nothing is written."""
        if write:
            self.write()
        capsys.readouterr()
        assert cli.main(self.argv(*flags)) == 1
        assert not (self.root / "train.json").exists() and not list(self.root.glob(".*part"))
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("llava-ego2exo: error: ")]
        assert out == "" and len(lines) == 1
        return lines[0]


@pytest.fixture
def material(tmp_path):
    return Material(tmp_path)


def general(root, count=30, kind="image"):
    """A LLaVA JSON with as many samples of general data."""
    folder = root / "general"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_text("picture")
    samples = [
        {
            "id": f"general_{i}",
            **({kind: "a.png"} if kind else {}),
            "conversations": [
                {"from": "human", "value": f"{'<image>' if kind else ''}\nQuestion {i}?"},
                {"from": "gpt", "value": f"Answer {i}."},
            ],
        }
        for i in range(count)
    ]
    (folder / "other.json").write_text(json.dumps(samples))
    return folder / "other.json"


# What a sample is


def test_a_sample(material):
    samples = material.run()
    assert len(samples) == 12
    for sample in samples:
        segment, view = sample["segment"], sample["view"]
        kind = sample["id"].removeprefix(f"{segment}_{view}_")
        record = material.of(segment, kind)
        assert sample["video"] == f"{segment}_{view}.mp4" and sample["ego_video"] == f"{segment}_ego.mp4"
        assert sample["answer_keys"] == [record["key"]]
        human, gpt = sample["conversations"]
        assert human["value"] in (f"<image>\n{record['query']}", f"{record['query']}\n<image>")
        assert (human["from"], gpt) == ("human", {"from": "gpt", "value": record["answer"]})
        assert set(sample) == {"id", "video", "ego_video", "segment", "view", "answer_keys", "conversations"}
    assert len({sample["id"] for sample in samples}) == 12


def test_all_views(material):
    samples = material.run("--views", "all")
    seen = Counter((sample["segment"], sample["view"]) for sample in samples)
    assert seen == {(pair.segment, view): 3 for pair in material.pairs for view in ("exo1", "exo2")}


def test_all_turns_of_a_segment_in_one_conversation(tmp_path):
    material = Material(tmp_path, segments=40)
    samples = material.run("--turns", "all")
    assert [sample["segment"] for sample in samples] == [pair.segment for pair in material.pairs]
    orders = Counter()
    for sample in samples:
        assert sample["id"] == f"{sample['segment']}_{sample['view']}_all"
        turns = sample["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * 3
        assert [turn["value"].count("<image>") for turn in turns] == [1, 0, 0, 0, 0, 0]
        records = {record["key"]: record for record in material.records}
        asked = [records[key] for key in sample["answer_keys"]]
        assert [turn["value"] for turn in turns[1::2]] == [record["answer"] for record in asked]
        queries = [turn["value"].replace("<image>", "").strip() for turn in turns[::2]]
        assert queries == [record["query"] for record in asked]
        orders[tuple(record["kind"] for record in asked)] += 1
    assert len(orders) == 6  # every order of three turns occurs


def test_only_the_split_that_was_asked_for(material):
    material.pairs.append(material.pair("v0_0001", split="val"))
    material.records.append(material.record(material.pairs[-1], "temporal"))
    assert {sample["segment"] for sample in material.run()} == {pair.segment for pair in material.pairs[:-1]}
    material.records += [material.record(material.pairs[-1], kind) for kind in ("descriptive", "spatial")]
    assert {sample["segment"] for sample in material.run("--split", "val")} == {"v0_0001"}


def test_paths_outside_the_video_folder_are_absolute(material, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    samples = material.run("--video-folder", elsewhere)
    assert all(os.path.isabs(sample["video"]) and os.path.isfile(sample["video"]) for sample in samples)
    samples = material.run("--video-folder", tmp_path.parent)
    assert all(sample["ego_video"] == f"{tmp_path.name}/{sample['segment']}_ego.mp4" for sample in samples)


# Draws


def test_draws_are_fair_and_independent(tmp_path):
    """400 samples: 0.35 to 0.65 is six standard deviations."""
    samples = Material(tmp_path, segments=134).run()
    views = Counter(sample["view"] for sample in samples)
    before = Counter(sample["conversations"][0]["value"].startswith("<image>") for sample in samples)
    both = Counter((s["view"], s["conversations"][0]["value"].startswith("<image>")) for s in samples)
    assert set(views) == {"exo1", "exo2"}
    for counts in (views, before):
        assert 0.35 < min(counts.values()) / len(samples)
    assert len(both) == 4 and min(both.values()) > 0.15 * len(samples)


def test_another_seed_draws_otherwise(material):
    first, second = material.run("--seed", "0"), material.run("--seed", "1")
    assert first != second
    assert [sample["segment"] for sample in first] == [sample["segment"] for sample in second]


def test_a_pair_more_changes_no_other_sample(material):
    before = material.run()
    material.pairs.insert(1, material.pair("new_0001"))
    material.records += [material.record(material.pairs[1], kind) for kind in KINDS]
    after = material.run()
    assert [sample for sample in after if sample["segment"] != "new_0001"] == before


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(-5, 2**40), order=st.randoms(use_true_random=False), turns=st.sampled_from(["one", "all"]))
def test_same_seed_same_bytes_whatever_the_order(material, seed, order, turns):
    """Of the answers, of the keys in a record, and of the views of a pair."""
    flags = ("--seed", seed, "--turns", turns, "--mix", general(material.root), "--mix-ratio", "0.25")
    material.run(*flags)
    pairs, records = material.pairs, material.records
    order.shuffle(material.records)
    material.records = [dict(order.sample(list(r.items()), len(r))) for r in records]
    material.pairs = [replace(p, exo=dict(order.sample(list(p.exo.items()), len(p.exo)))) for p in pairs]
    material.run(*flags, out="again.json")
    material.pairs = pairs
    assert (material.root / "again.json").read_bytes() == (material.root / "train.json").read_bytes()


def test_same_bytes_in_every_process(material):
    """Whatever Python's hash seed."""
    material.write()
    flags = ("--mix", general(material.root), "--seed", "3")
    found = set()
    for number in ("0", "1", "4711"):
        command = [sys.executable, "-m", "llava_ego2exo.cli", *material.argv(*flags)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": number}, check=True, capture_output=True)
        found.add((material.root / "train.json").read_bytes())
    assert len(found) == 1


def test_the_bytes_do_not_change_between_versions(material):
    """A run goes on with the file it began with; a new hash here means that all users' files change."""
    material.run("--seed", "7")
    found = sha256((material.root / "train.json").read_bytes()).hexdigest()
    assert found == BYTES_OF_SEED_7


def test_names_of_any_script_survive(tmp_path):
    material = Material(tmp_path, segments=0)
    material.pairs = [material.pair("küche_0001")]
    material.records = [material.record(material.pairs[0], "temporal", answer="Zuerst die Schüssel. 然后")]
    (sample,) = material.run()
    assert sample["segment"] == "küche_0001" and sample["conversations"][1]["value"] == "Zuerst die Schüssel. 然后"
    (tmp_path / "train.json").read_text(encoding="ascii")


# Flagged answers


def test_flagged_answers_are_left_out_counted_and_named(material, capsys):
    material.of("t0_0001", "temporal").update(flags=["cut"])
    material.of("t1_0001", "spatial").update(flags=["repeats", "cut"])
    samples = material.run()
    assert len(samples) == 10
    told = capsys.readouterr().out
    assert "left out, cut: 2 answer(s): t0_0001 temporal; t1_0001 spatial" in told
    assert "left out, repeats: 1 answer(s): t1_0001 spatial" in told


def test_flagged_answers_are_kept_when_asked(material, capsys):
    material.of("t0_0001", "temporal").update(flags=["cut"])
    assert len(material.run("--flagged", "keep")) == 12
    assert "kept though flagged: cut 1" in capsys.readouterr().out


def test_a_flagged_turn_leaves_the_others(material):
    material.of("t0_0001", "temporal").update(flags=["empty"], answer="")
    for kind in KINDS:
        material.of("t1_0001", kind).update(flags=["cut"])
    samples = {sample["segment"]: sample for sample in material.run("--turns", "all")}
    assert len(samples["t0_0001"]["answer_keys"]) == 2
    assert "t1_0001" not in samples


@pytest.mark.parametrize("flagged", ["drop", "keep"])
def test_an_answer_with_a_placeholder_is_never_used(material, flagged, capsys):
    material.of("t2_0001", "spatial").update(answer="I see <image> here.")
    assert len(material.run("--flagged", flagged)) == 11
    assert "left out, placeholder: 1 answer(s): t2_0001 spatial" in capsys.readouterr().out


def test_nothing_left(material, capsys):
    for record in material.records:
        record["flags"] = ["repeats"]
    error = material.fail(capsys=capsys)
    assert "no answer is left to train on (left out: repeats 12)" in error and "give --flagged keep" in error
    assert "--max-new-tokens" not in error
    material.records[3]["flags"] = ["cut"]
    assert "larger --max-new-tokens into a new --out" in material.fail(capsys=capsys)


# What is told


def test_what_is_told(material, capsys):
    material.run("--seed", "5")
    told = capsys.readouterr().out
    assert "samples: 12 from 4 segment(s) of split train, seed 5" in told
    assert f"answers: descriptive 4, spatial 4, temporal 4; teacher {TEACHER[:12]}:" in told
    views, places = (next(line for line in told.splitlines() if line.startswith(w)) for w in ("views", "placeholder"))
    assert sum(int(word.rstrip(",")) for word in views.split() if word.rstrip(",").isdigit()) == 12
    assert sum(int(word) for word in places.split() if word.isdigit()) == 12
    assert told.splitlines()[-1] == f"  --data_path {material.root}/train.json --video_folder {material.root}"


def test_the_flags_to_paste_are_quoted(tmp_path, capsys):
    root = tmp_path / "my videos"
    root.mkdir()
    Material(root).run()
    assert f"--video_folder '{root}'" in capsys.readouterr().out


# Replay


@pytest.mark.parametrize(("ratio", "count"), [(0.2, 3), (0.5, 12), (0.25, 4), (None, 3)])
def test_the_ratio_is_of_all_samples(material, ratio, count, capsys):
    flags = () if ratio is None else ("--mix-ratio", ratio)
    samples = material.run("--mix", general(material.root), *flags)
    replayed = [sample for sample in samples if sample.get("replay")]
    assert len(samples) == 12 + count and len(replayed) == count
    assert len({sample["id"] for sample in replayed}) == count
    assert not any("ego_video" in sample for sample in replayed)
    told = capsys.readouterr().out
    assert f"replayed: {count} sample(s)" in told and f"{count / (12 + count):.1%} of all" in told
    assert f"--image_folder {material.root}/general" in told


def test_the_other_samples_are_as_without_replay(material):
    plain = material.run()
    mixed = material.run("--mix", general(material.root), "--mix-ratio", "0.5")
    assert [sample for sample in mixed if "replay" not in sample] == plain
    places = [index for index, sample in enumerate(mixed) if "replay" in sample]
    assert places != list(range(12)) and places != list(range(12, 24))


def test_other_seeds_replay_other_samples(material):
    file = general(material.root)
    drawn = [
        frozenset(s["id"] for s in material.run("--mix", file, "--seed", seed) if s.get("replay")) for seed in range(8)
    ]
    assert len(set(drawn)) > 4


def test_equal_samples_may_each_be_drawn_once(material):
    file = general(material.root, 1)
    file.write_text(json.dumps(json.loads(file.read_text()) * 3))
    samples = material.run("--mix", file, "--mix-ratio", "0.2")
    assert sum("replay" in sample for sample in samples) == 3


def test_replayed_videos_are_found_from_the_same_folder(material):
    file = general(material.root, kind="video")
    (material.root / "general/a.png").rename(material.root / "a.png")
    samples = material.run("--mix", file, "--mix-video-folder", material.root)
    assert {sample["video"] for sample in samples if sample.get("replay")} == {"a.png"}
    samples = material.run("--mix", file, "--mix-video-folder", material.root, "--video-folder", file.parent)
    assert {sample["video"] for sample in samples if sample.get("replay")} == {str(material.root / "a.png")}


def test_text_samples_need_no_image_folder(material, capsys):
    samples = material.run("--mix", general(material.root, kind=None))
    assert sum("replay" in sample for sample in samples) == 3
    assert "--image_folder" not in capsys.readouterr().out


def test_too_few_to_replay(material, capsys):
    error = material.fail("--mix", general(material.root, 2), "--mix-ratio", "0.5", capsys=capsys)
    assert "holds 2 samples, and the ratio asks for 12" in error


@pytest.mark.parametrize("ratio", ["0", "1", "-0.1", "1.5", "nan", "inf"])
def test_ratios_that_are_none(material, ratio, capsys):
    assert f"--mix-ratio {float(ratio)}" in material.fail(
        "--mix", general(material.root), "--mix-ratio", ratio, capsys=capsys
    )


def test_a_ratio_below_one_sample(material, capsys):
    error = material.fail("--mix", general(material.root), "--mix-ratio", "0.01", capsys=capsys)
    assert "--mix-ratio 0.01 of 12 samples is none" in error


def test_faulty_samples_to_replay(material, capsys):
    file = general(material.root, 4)
    samples = json.loads(file.read_text())
    samples[0]["image"] = "absent.png"
    samples[1]["conversations"][0]["value"] = "no placeholder"
    samples[2]["ego_video"] = "a.mp4"
    samples[3] = "no sample"
    file.write_text(json.dumps(samples))
    error = material.fail("--mix", file, "--mix-ratio", "0.25", capsys=capsys)
    assert "4 fault(s) in the samples drawn for replay" in error
    for part in ("absent.png is not there", "[1]: has 0 <image>", "[2]: is of distillation", "[3]: is a str"):
        assert part in error


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1", "\xff"])
def test_a_file_to_mix_that_is_none(material, content, capsys):
    file = material.root / "other.json"
    file.write_bytes(content.encode("latin-1"))
    assert str(file) in material.fail("--mix", file, capsys=capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mix-ratio", "0.2"], "--mix-ratio without --mix"),
        (["--mix-video-folder", "x", "--mix-image-folder", "x"], "--mix-video-folder, --mix-image-folder without"),
        (["--mix", "absent.json"], "--mix absent.json is no file"),
        (["--mix", "OTHER", "--mix-image-folder", "absent"], "--mix-image-folder absent is no folder"),
        (["--video-folder", "absent"], "--video-folder absent is no folder"),
        (["--out", "train.jsonl"], "--out train.jsonl"),
        (["--out", "OTHER"], "would overwrite what it is made from", ),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(material, flags, said, capsys):
    other = str(general(material.root))
    given = [other if flag == "OTHER" else flag for flag in flags]
    given += ["--mix", other] if "--out" in flags else []
    assert said in material.fail(*given, capsys=capsys)


@pytest.mark.parametrize("flags", [["--views", "some"], ["--split", "all"], ["--seed", "x"], ["--flagged", "maybe"]])
def test_wrong_values_are_usage_errors(material, flags):
    with pytest.raises(SystemExit) as stop:
        cli.main(material.argv(*flags))
    assert stop.value.code == 2


# Pairs and answers that do not fit


def test_answers_of_unknown_segments(material, capsys):
    gone = material.pairs.pop()
    error = material.fail(capsys=capsys)
    assert f"3 answer(s) are of segments that the pairs lack: {gone.segment} descriptive; " in error
    assert len(material.run("--allow-missing")) == 9
    assert "allowed: 3 answer(s) are of segments that the pairs lack" in capsys.readouterr().out


def test_missing_answers(material, capsys):
    material.records = [r for r in material.records if (r["segment"], r["kind"]) != ("t1_0001", "temporal")]
    material.pairs.append(material.pair("t9_0001"))
    error = material.fail(capsys=capsys)
    assert "4 answer(s) of the pairs are missing: t1_0001 temporal; t9_0001 descriptive; " in error
    assert "--allow-missing" in error
    assert len(material.run("--allow-missing")) == 11
    assert (
        "allowed: 4 answer(s) of the pairs are missing: t1_0001 temporal; t9_0001 descriptive"
        in capsys.readouterr().out
    )


def test_answers_of_two_teachers(material, capsys):
    other = sha256(b"other").hexdigest()
    more = [material.record(pair, kind, teacher=other) for pair in material.pairs for kind in KINDS]
    material.records += more
    error = material.fail(capsys=capsys)
    assert "2 teacher(s) or settings" in error and f'teacher: "{TEACHER[:12]}" / "{other[:12]}"' in error
    assert "--teacher" in error and "(12 answers)" in error and "temperature" not in error
    keys = {key for sample in material.run("--teacher", other[:8]) for key in sample["answer_keys"]}
    assert keys == {record["key"] for record in more}
    (material.root / "train.json").unlink()
    assert "--teacher zzz fits 0 of 2" in material.fail("--teacher", "zzz", capsys=capsys)


def test_answers_with_two_settings(material, capsys):
    hot = {**SETTINGS, "temperature": 0.7, "top_p": None}
    more = [material.record(pair, kind, settings=hot) for pair in material.pairs for kind in KINDS]
    material.records += more
    error = material.fail("--teacher", TEACHER, capsys=capsys)
    assert "they differ in temperature: 0.0 / 0.7; top_p: absent / null" in error and "max_new_tokens" not in error
    name = error.split("; ")[1].split(" ")[0]
    keys = {key for sample in material.run("--teacher", name) for key in sample["answer_keys"]}
    assert keys == {record["key"] for record in more}


def test_a_teacher_that_is_none_of_one(material, capsys):
    error = material.fail("--teacher", "zzz", capsys=capsys)
    assert f"--teacher zzz fits 0 of 1 teacher(s) or settings: {TEACHER[:12]}:" in error and "differ" not in error


def test_two_answers_for_one_segment_and_kind(material, capsys):
    material.records.append(material.record(material.pairs[0], "temporal", query="Another wording?"))
    error = material.fail(capsys=capsys)
    assert "1 segment(s) and kind(s) with several answers, of other queries: t0_0001 temporal" in error


def test_queries_that_cannot_be_trained(material, capsys):
    material.of("t0_0001", "temporal").update(query="<image>\nWhat first?")
    assert "query is empty or holds <image>: t0_0001 temporal" in material.fail(capsys=capsys)


@pytest.mark.parametrize("values", [{"start_s": 1.0, "end_s": 3.0}, {"offset_s": 0.25}, {"end_s": 2.0}])
def test_pairs_that_are_not_cut(material, values, capsys):
    material.pairs[1] = replace(material.pairs[1], **values)
    error = material.fail(capsys=capsys)
    assert "1 pair(s) are parts of longer videos" in error and "t1_0001" in error
    assert "llava-ego2exo pairs cut" in error


def test_answers_made_before_cutting_are_matched_by_name_and_told(material, capsys):
    for record in material.records[:3]:
        record.update(start_s=4.0, end_s=6.0, video=digest("the long recording"))
    assert len(material.run()) == 12
    assert "answered before they were cut, so matched by name alone: 1 segment(s)" in capsys.readouterr().out


def test_missing_videos(material, capsys):
    for name in ("t0_0001_exo2.mp4", "t2_0001_ego.mp4"):
        (material.root / name).unlink()
    error = material.fail(capsys=capsys)
    assert "2 video(s) of the pairs are not there: t0_0001 exo2: " in error and "t2_0001 ego: " in error


def test_an_ego_video_that_the_teacher_never_saw(material, capsys):
    (material.root / "t3_0001_ego.mp4").write_text("another take")
    error = material.fail(capsys=capsys)
    assert "1 ego video(s) are not those that the teacher saw: t3_0001: " in error


def test_hashes_are_not_remembered_where_nobody_may_write(material, monkeypatch):
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "answers" and access(path, mode))
    assert len(material.run()) == 12
    assert [file.name for file in (material.root / "answers").iterdir()] == ["answers.jsonl"]


def test_an_unfinished_folder(material, capsys):
    material.write(name="answers.part-00000.jsonl")
    error = material.fail(capsys=capsys, write=False)
    assert "not finished" in error and "llava-ego2exo teach" in error


def test_no_answers_and_no_pairs(material, capsys):
    material.write()
    argv = material.argv()
    argv[argv.index("--pairs") + 1], argv[argv.index("--answers") + 1] = "absent.jsonl", "absent"
    assert cli.main(argv) == 1
    error = capsys.readouterr().err
    assert "absent.jsonl" in error and "absent" in error.replace("absent.jsonl", "")


def test_a_split_without_pairs(material, capsys):
    error = material.fail("--split", "val", capsys=capsys)
    assert "no pair is of split val" in error and "train (4)" in error


def test_all_faults_in_one_message(material, capsys):
    (material.root / "t0_0001_exo1.mp4").unlink()
    material.pairs[1] = replace(material.pairs[1], start_s=1.0, end_s=2.0)
    material.records = [record for record in material.records if record["segment"] != "t2_0001"]
    material.records.append(material.record(material.pair("x_0001"), "temporal"))
    error = material.fail(capsys=capsys)
    for part in ("parts of longer videos", "not there", "pairs lack", "are missing"):
        assert part in error


def test_no_place_to_write(material, capsys):
    file = material.root / "t0_0001_ego.mp4" / "below" / "train.json"
    error = material.fail("--out", file, capsys=capsys)
    assert f"{material.root}/t0_0001_ego.mp4 is no folder that you may write in" in error


def test_a_write_that_fails_is_one_error_and_leaves_nothing(material, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    material.write()
    monkeypatch.setattr("os.replace", full)
    assert cli.main(material.argv()) == 1
    assert "train.json cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(material.root.glob(".*part"))


def test_a_file_that_stands_already_survives_a_failed_run(material):
    material.run()
    kept = (material.root / "train.json").read_bytes()
    (material.root / "t0_0001_exo1.mp4").unlink()
    assert cli.main(material.argv()) == 1
    assert (material.root / "train.json").read_bytes() == kept


def test_the_pairs_are_as_they_were_read(material):
    material.write()
    assert read_pairs(material.root / "pairs.jsonl") == material.pairs


def test_the_command_loads_nothing_heavy(material):
    material.write()
    code = (
        f"import sys\nfrom llava_ego2exo.cli import main\nassert main({material.argv()!r}) == 0\n"
        "print(sorted({'torch', 'transformers', 'llava', 'numpy', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_error_type(material):
    from llava_ego2exo.distill.targets.run import run_targets

    with pytest.raises(Ego2ExoError, match="cannot be read"):
        run_targets(str(material.root / "absent.jsonl"), str(material.root), str(material.root / "t.json"))
