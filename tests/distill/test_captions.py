"""Published answers as the authors' script leaves them become an answers folder that makes a training file."""

import json

import pytest

from llava_ego2exo import cli
from llava_ego2exo.distill.pairs.build import build_from_folder
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.teach.store import read_answers

DESCRIBE, ORDER, PLACES = "Describe it.", "In which order? ", "Where is what?"


def clip(name, *queries):
    return {query: f"{name} answers {query}" for query in queries}


SHARDS = {
    # Two processes; the second one was stopped in its second clip, and both failed at times.
    "captions_proc_0.json": {
        "s1_ego.mp4": clip("s1", DESCRIBE, ORDER, PLACES), "s2_ego.mp4": "ERROR: CUDA out of memory",
        "gone_ego.mp4": clip("gone", DESCRIBE),
    },
    "captions_proc_10.json": {
        "s3_ego.mp4": {DESCRIBE: "Now now.", ORDER: "ERROR: timed out", PLACES: ""}, "s4_ego.mp4": {},
        "s5_ego.mp4": clip("s5", DESCRIBE),
    },
}  # fmt: skip


class Published:
    def __init__(self, root):
        self.root = root
        for segment in range(1, 7):
            for view in ("ego", "exo1", "exo2"):
                path = root / f"v/s{segment}_{view}.mp4"
                path.parent.mkdir(exist_ok=True)
                path.write_text(f"{segment} {view}")
        self.pairs = root / "v/pairs.jsonl"
        write_pairs(self.pairs, build_from_folder(root / "v").pairs)

    def write(self, files):
        for name, content in files.items():
            (self.root / name).write_text(content if isinstance(content, str) else json.dumps(content))

    def run(self, *given, flags=(), out="answers"):
        command = ["teach", "--pairs", self.pairs, "--out", self.root / out, *flags, "--import"]
        return cli.main([*map(str, command), *(str(self.root / name) for name in given)])


@pytest.fixture
def published(tmp_path):
    return Published(tmp_path)


def test_shards_become_answers_and_a_training_file(published, capsys):
    published.write(SHARDS)
    assert published.run("captions_proc_*.json") == 0
    said = capsys.readouterr().out
    for line in (
        "6 answers about 3 clip(s)", "2 clip(s) left out, as they failed (ERROR:): s2_ego.mp4: ERROR: CUDA",
        "1 answer(s) left out, as they failed (ERROR:): s3_ego.mp4: In which order?", "has them: gone_ego.mp4",
        "3 pair(s) of split train without an answer: s2; s4; s6", "flagged: 1 answer(s)", "--allow-missing",
    ):  # fmt: skip
        assert line in said
    answers = read_answers(published.root / "answers")
    assert [(a.segment, a.kind, a.query, a.answer, a.flags) for a in answers] == [
        ("s1", "descriptive", "Describe it.", "s1 answers Describe it.", ()),
        ("s1", "temporal", "In which order?", "s1 answers In which order?", ()),
        ("s1", "spatial", "Where is what?", "s1 answers Where is what?", ()),
        ("s3", "descriptive", "Describe it.", "Now now.", ()),
        ("s3", "spatial", "Where is what?", "", ("empty",)),
        ("s5", "descriptive", "Describe it.", "s5 answers Describe it.", ()),
    ]
    train = published.root / "v/train.json"
    targets = ["targets", "--pairs", published.pairs, "--answers", published.root / "answers", "--out", train]
    assert cli.main([*map(str, targets), "--allow-missing"]) == 0
    samples = json.loads(train.read_text())
    assert [sample["segment"] for sample in samples] == ["s1", "s1", "s1", "s3", "s5"]
    assert all(sample["video"].startswith(f"{sample['segment']}_exo") for sample in samples)


def test_all_ways_to_name_the_files_and_importing_again(published, capsys):
    published.write(SHARDS)
    assert published.run("captions_proc_10.json") == 0
    assert published.run("captions_proc_0.json") == 0
    assert "kept beside: 3 answer(s)" in capsys.readouterr().out
    stored = published.root / "answers/answers.jsonl"
    together = stored.read_bytes()
    for given in (["."], ["captions_proc_*.json", "captions_proc_0.json"], [*SHARDS]):
        assert published.run(*given) == 0 and stored.read_bytes() == together
        assert not {"dropped:", "replaced:"} & set(capsys.readouterr().out.split())
    published.write({"captions_proc_10.json": {"s3_ego.mp4": {DESCRIBE: "Later."}, "s5_ego.mp4": clip("s5", DESCRIBE)}})
    assert published.run("captions_proc_10.json") == 0 and "replaced: 1 answer(s)" in capsys.readouterr().out
    assert "Later." in [answer.answer for answer in read_answers(published.root / "answers")]
    assert published.run("captions_proc_0.json", flags=["--split", "val"], out="none") == 1
    assert "pair of split val" in capsys.readouterr().err and not (published.root / "none").exists()


def test_a_pair_is_found_by_its_ego_file_or_its_segment(published, capsys):
    lines = published.pairs.read_text().replace('"segment": "s', '"segment": "take_s')
    published.pairs.write_text(lines)
    published.write({"a.json": {"s1_ego.mp4": clip("file", DESCRIBE), "take_s2_ego.mp4": clip("name", DESCRIBE)}})
    assert published.run("a.json") == 0
    answers = {answer.segment: answer.answer for answer in read_answers(published.root / "answers")}
    assert answers == {"take_s1": "file answers Describe it.", "take_s2": "name answers Describe it."}
    published.pairs.write_text(lines + lines.splitlines()[0].replace("take_s1", "again"))
    assert published.run("a.json") == 1 and "s1_ego.mp4: take_s1, again" in (said := capsys.readouterr().err)
    assert "hold each ego file once" in said
    # Two files of one name.
    (published.root / "v/t").mkdir()
    (published.root / "v/t/s1_ego.mp4").write_text("another")
    published.pairs.write_text(lines + lines.splitlines()[0].replace("take_s1", "again").replace("s1_ego", "t/s1_ego"))
    assert published.run("a.json") == 1 and "<segment>_ego.mp4" in capsys.readouterr().err
    published.write({"a.json": {f"{name}_ego.mp4": clip(name, DESCRIBE) for name in ("take_s1", "again")}})
    assert published.run("a.json", out="both") == 0 and len(read_answers(published.root / "both")) == 2


def test_a_clip_in_two_shards(published, capsys):
    whole, part = clip("s1", DESCRIBE, ORDER, PLACES), clip("s1", DESCRIBE)
    failed = {**whole, PLACES: "ERROR: x"}
    for number, (one, other) in enumerate([(part, whole), (whole, part), (failed, whole), (whole, "ERROR: x")]):
        published.write({"a.json": {"s1_ego.mp4": one}, "b.json": {"sub/s1_ego.mp4": other}})
        assert published.run("a.json", "b.json", out=f"out{number}") == 0
        assert len(read_answers(published.root / f"out{number}")) == 3
    for other in ({**whole, ORDER: "else"}, clip("s1", "Another wording?")):
        published.write({"b.json": {"s1_ego.mp4": other}})
        assert published.run("a.json", "b.json", out="clash") == 1
        error = capsys.readouterr().err
        assert "b.json: s1_ego.mp4: has other answers in" in error and "a.json" in error


@pytest.mark.parametrize(
    ("content", "token"),
    [
        ('{"s1_ego.mp4": {"Q": "A"', "is no JSON"), ([{"s1_ego.mp4": {}}], "is a list, not an object"),
        ({"s1_ego.mp4": "A text."}, "s1_ego.mp4: is a str, neither"), ({"s1_ego.mp4": None}, "is a NoneType, neither"),
        ({"s1_ego.mp4": {"Q?": ["A"]}}, "answer to 'Q?' is a list"), ({"s1_ego.mp4": {" ": "A"}}, "'' is no text"),
        ({"s1_ego.mp4": {"<video>\nQ?": "A"}}, "<video>"), ({"": {"Q": "A"}}, "names no file"),
        ({"s1_ego.mp4": {"Q?": "A \ud800"}}, "no valid Unicode"), ({"\ud800_ego.mp4": "ERROR: x"}, "names no file"),
        ({"x_ego.mp4": {"Q": "A"}}, "none of 1 answered clip(s)"), ({"s1_ego.mp4": "ERROR: x"}, "none of 0"),
    ],
)  # fmt: skip
def test_files_of_other_shapes(published, content, token, capsys):
    published.write({"c.json": content})
    assert published.run("c.json") == 1
    assert token in capsys.readouterr().err and not (published.root / "answers").exists()


def test_what_cannot_be_imported(published, capsys):
    published.write(SHARDS)
    for given, flags, token in (
        (["nowhere_*.json"], [], "nowhere_*.json is no file"), (["."], ["--model", "m"], "--import with --model"),
    ):  # fmt: skip
        assert published.run(*given, flags=flags) == 1 and token in capsys.readouterr().err
    assert cli.main(["teach", "--pairs", str(published.pairs), "--out", "x"]) == 1
    assert "neither --model nor --import" in capsys.readouterr().err
    lines = published.pairs.read_text().splitlines()
    published.pairs.write_text("\n".join([lines[0].replace('"end_s": null', '"end_s": 2.0'), *lines[1:]]))
    assert published.run(".") == 1 and "1 pair(s) are parts of longer videos: s1" in capsys.readouterr().err
    published.pairs.write_text("\n".join(lines))
    (published.root / "v/s3_ego.mp4").unlink()
    assert published.run(".") == 1 and "s3 ego: " in capsys.readouterr().err
