"""`eval` with tiny models: replies, interruptions, several processes, failures, rescoring, and what it refuses."""

import json
import signal

import pytest

from llava_ego2exo.evaluation.prompts import prompt_of
from llava_ego2exo.evaluation.replies import ReplyStore, read_replies
from llava_ego2exo.host import asking, teacher
from llava_ego2exo.video import read_video

from .asking import error_of
from .evaluating import Setting
from .killing import killed_at, on_two_processes

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def setting(tmp_path, world):
    return Setting(tmp_path, world)


def test_replies_are_the_models_own_and_asked_once(setting, no_model, capsys):
    assert setting.eval(view="both", mode="generate likelihood") == 0
    tokenizer, model, processor, _ = asking.load(str(setting.model), torch_dtype="float32")
    results = [row for row in setting.results() if row["mode"] == "generate"]
    assert [row["view"] for row in results] == ["exo", "ego"] * 8
    for row in results:
        assert row["video"].endswith(f"{row['view']}1.mp4" if row["view"] == "exo" else "ego.mp4")
        frames = read_video(str(setting.videos / row["video"]), frames_upbound=3).frames
        pixels = processor.preprocess(list(frames), return_tensors="pt")["pixel_values"]
        options = " ".join(f"({key}) {text}" for key, text in row["choices"].items())
        text = (
            f"{row['question']} The output should be the choice among one of the following choices. "
            f"Choices are {options}"
        )
        assert row["reply"] == asking.generate(model, tokenizer, pixels, text, setting.template, 6)
    assert len({row["reply"] for row in results}) > 3
    total = setting.row(category="all", view="exo", mode="generate")
    assert total["n"] == 8 == total["parsed"] + total["unparsed"] + total["failed"]
    assert setting.row(category="all", view="ego", mode="likelihood")["parsed"] == 8
    printed = capsys.readouterr().out
    assert "report.html" in printed and "likelihood" in printed
    before = {path: path.read_bytes() for path in (setting.root / "out").rglob("*") if path.is_file()}
    no_model()
    assert setting.eval(view="both", mode="generate likelihood") == 0
    assert {path: path.read_bytes() for path in (setting.root / "out").rglob("*") if path.is_file()} == before


def test_a_video_is_read_and_encoded_once_for_all_its_questions(setting, monkeypatch):
    from llava_ego2exo.video import reader

    read, original = [], reader.read_video

    def reading(path, *rest, **how):
        read.append(path)
        return original(path, *rest, **how)

    monkeypatch.setattr(reader, "read_video", reading)
    frames = []

    def load(*args, **kwargs):
        loaded = asking.load(*args, **kwargs)
        tower = loaded[1].get_vision_tower()
        forward = tower.forward
        tower.forward = lambda pictures: frames.append(len(pictures)) or forward(pictures)
        return loaded

    monkeypatch.setattr(teacher, "load", load)
    assert setting.eval() == 0
    assert len(read) == len(set(read)) == 4 and len(frames) == 4


def test_killed_three_times_and_resumed_equals_uninterrupted(setting):
    """The first kill tears a record, the second comes between the records of a clip, the third before any."""
    assert setting.eval("whole", batch_size=2) == 0
    sizes = [len(line) + 1 for line in setting.replies("whole").splitlines()]
    for batch, kept in ((1, 40), (1, sizes[0] + 7), (2, 0)):
        assert killed_at(setting.command(batch_size=2), ReplyStore, batch, kept) == -signal.SIGKILL
        assert not (setting.root / "out" / "base" / "generate" / "replies.jsonl").exists()
    assert 0 < len(read_replies(setting.root / "out" / "base" / "generate")) < 8
    assert setting.eval(batch_size=2) == 0
    assert setting.replies() == setting.replies("whole")
    one, other = ({**setting.metrics(out)} for out in ("out", "whole"))
    assert one == other
    assert (setting.root / "out" / "report.html").read_bytes() == (setting.root / "whole" / "report.html").read_bytes()


@pytest.mark.slow
def test_two_processes_equal_one(setting):
    assert setting.eval("one", mode="generate likelihood") == 0
    done = on_two_processes(setting.command("two", mode="generate likelihood"))
    assert done.returncode == 0, done.stderr[-3000:]
    for mode in ("generate", "likelihood"):
        assert setting.replies("two", mode=mode) == setting.replies("one", mode=mode)
    assert setting.metrics("two") == setting.metrics("one")
    assert done.stdout.count("report.html") == 1, "said once, not by every process"
    bad = on_two_processes(setting.command("two", frames_upbound=2))
    assert bad.returncode != 0 and "frames_upbound: 3, now 2" in bad.stderr
    assert bad.stderr.count("was made otherwise") == 1


@pytest.mark.slow
def test_a_model_taught_letters_is_read_alike_in_both_modes(setting, world, train, tmp_path):
    """A LoRA student with its base beside the base, from LLaVA's own training on the benchmark's own questions."""
    from llava_ego2exo.evaluation.benchmarks import read_benchmark

    items = read_benchmark("ego-in-exo", setting.data).items
    samples = [
        {"id": item.id, "video": item.video, "conversations": [
            {"from": "human", "value": f"<image>\n{prompt_of(item)}"}, {"from": "gpt", "value": item.answer},
        ]}
        for item in items
    ]  # fmt: skip
    (tmp_path / "letters.json").write_text(json.dumps(samples))
    train(
        tmp_path / "student", setting.kind, data_path=tmp_path / "letters.json", video_folder=setting.videos,
        num_train_epochs=60, per_device_train_batch_size=8, frames_upbound=3,
    )  # fmt: skip
    models = [f"base={setting.model}", f"student={tmp_path / 'student'}"]
    assert setting.eval(model=models, model_base=str(setting.model), mode="generate likelihood") == 0
    picked = {mode: [r["picked"] for r in setting.results() if r["model"] == "student" and r["mode"] == mode]
              for mode in ("generate", "likelihood")}  # fmt: skip
    assert picked["generate"] == picked["likelihood"]
    assert picked["generate"] == [item.answer for item in items]
    assert setting.row(model="student", mode="generate", category="all")["accuracy"] == 100
    gain = [row for row in setting.metrics()["differences"] if row["category"] == "all" and row["mode"] == "likelihood"]
    base = setting.row(model="base", mode="likelihood", category="all")
    assert [row["difference"] for row in gain] == [100 - base["accuracy"]]


class TestFailures:
    def test_an_unreadable_video_counts_as_wrong_and_is_asked_again(self, setting, capsys):
        broken = setting.videos / "t1_exo1.mp4"
        good = broken.read_bytes()
        broken.write_bytes(b"no video" * 100)
        assert setting.eval() == 1
        message = error_of(capsys)
        assert (
            "2 question(s) got no reply and count as wrong" in message and f"video {broken} does not decode" in message
        )
        total = setting.row(category="all")
        assert (total["n"], total["failed"]) == (8, 2) and total["parsed"] + total["unparsed"] == 6
        assert (setting.root / "out" / "report.html").is_file()
        assert setting.eval(max_failures=2) == 0
        broken.write_bytes(good)
        assert setting.eval() == 0 and setting.eval("fresh") == 0
        assert setting.replies() == setting.replies("fresh")

    def test_missing_videos_are_named_before_work(self, setting, no_model, capsys):
        (setting.videos / "t1_exo1.mp4").unlink()
        no_model()
        assert setting.eval() == 1
        message = error_of(capsys)
        assert "2 question(s) about videos that are not in" in message and "t1_exo1" in message
        assert not (setting.root / "out").exists()

    def test_as_many_as_allowed_may_be_missing_and_none_is_answered_blind(self, setting):
        (setting.videos / "t1_exo1.mp4").unlink()
        assert setting.eval(max_failures=2, mode="generate likelihood") == 0
        failed = [row for row in setting.results() if row["state"] == "failed"]
        assert len(failed) == 4 and all("not there" in row["error"] and not row["reply"] for row in failed)


class TestRescore:
    def test_reads_again_without_model_video_or_data(self, setting, no_model, capsys):
        import shutil

        assert setting.eval() == 0
        strict = setting.metrics()
        shutil.rmtree(setting.videos)
        setting.data.unlink()
        no_model()
        out = str(setting.root / "out")
        assert setting_main("eval", "--rescore", out, "--parser", "viscop") == 0
        assert setting.metrics()["provenance"]["parser"] == "viscop"
        assert setting_main("eval", "--rescore", out, "--parser", "strict") == 0
        assert setting.metrics() == strict
        assert "report.html" in capsys.readouterr().out

    def test_no_folder_of_ours(self, tmp_path, capsys):
        assert setting_main("eval", "--rescore", str(tmp_path)) == 1
        assert "run.json is not there" in error_of(capsys)


def setting_main(*words: str) -> int:
    from llava_ego2exo import cli

    return cli.main(list(words))


class TestRefused:
    @pytest.mark.parametrize(
        "flags, message",
        [
            ({"benchmark": "ego-in-ego"}, "ego-in-exo, adlx-charades-ar"),
            ({"videos": "/nowhere"}, "/nowhere"),
            ({"data": "/nowhere.json"}, "/nowhere.json"),
            ({"model": ["base=/nowhere"]}, "no readable config.json"),
            ({"model": None}, "--model not given"),
            ({"out": None}, "--out not given"),
            ({"mode": "guess"}, "generate, likelihood"),
            ({"parser": "kind"}, "strict, viscop"),
            ({"batch_size": 0}, "--batch-size 0"),
            ({"categories": "smell"}, "smell"),
            ({"judge_url": "http://localhost:1/v1"}, "both or neither"),
            ({"judge_unparsed": True}, "without a judge"),
            ({"compare_to": "nobody"}, "--compare-to nobody"),
            ({"template": "latin"}, "conversation template 'latin'"),
            ({"max_new_tokens": 0}, "--max-new-tokens 0"),
            ({"max_new_tokens": 10**6}, "positions for clip, query and answer"),
            ({"check": True, "rescore": "x"}, "--check and --rescore"),
        ],
    )
    def test_flags(self, setting, no_model, capsys, flags, message):
        no_model()
        assert setting.eval(**flags) == 1, flags
        assert message in error_of(capsys)

    def test_two_models_of_one_name(self, setting, no_model, capsys):
        no_model()
        assert setting.eval(model=[str(setting.model), str(setting.model)]) == 1
        assert "--model base=CKPT --model student=CKPT" in error_of(capsys)

    def test_a_base_for_a_whole_model(self, setting, no_model, capsys):
        no_model()
        assert setting.eval(model_base=f"base={setting.model}") == 1
        assert "holds a whole model, and model_base" in error_of(capsys)

    def test_other_data_in_the_same_folder(self, setting, no_model, capsys):
        assert setting.eval() == 0
        before = setting.replies()
        setting.write(setting.rows[:-1])
        no_model()
        assert setting.eval() == 1
        assert "was made otherwise: data.sha256" in error_of(capsys)
        assert setting.replies() == before

    def test_half_a_file_and_bad_rows(self, setting, no_model, capsys):
        no_model()
        text = setting.data.read_text()
        setting.data.write_text(text[: len(text) // 2])
        assert setting.eval() == 1 and "all_category_qas.json" in error_of(capsys)
        bad = [dict(row) for row in setting.rows]
        bad[2]["ground_truth_letter"] = "E"
        bad[5]["answer_choices"] = {"A": "one"}
        setting.write(bad)
        assert setting.eval() == 1
        message = error_of(capsys)
        assert "2 malformed row(s)" in message and "row 2" in message and "row 5" in message


def test_more_questions_in_the_same_folder_ask_only_those(setting, monkeypatch):
    assert setting.eval(limit=3) == 0
    assert setting.row(category="all")["n"] == 3
    few = setting.replies().splitlines()
    assert setting.eval() == 0
    assert setting.row(category="all")["n"] == 8
    assert setting.replies().splitlines()[: len(few)] == few and len(setting.replies().splitlines()) == 8


def test_check_needs_no_model(setting, no_model, capsys):
    no_model()
    assert setting_main("eval", "--check", "--benchmark", "ego-in-exo", "--data", str(setting.data)) == 0
    assert "colour" in capsys.readouterr().out


def test_provenance_says_what_numbers_depend_on(setting):
    assert setting.eval(mode="likelihood") == 0
    about = setting.metrics()["provenance"]
    model = about["models"][0]
    assert model["settings"]["frames_upbound"] == 3 and model["settings"]["dtype"] == "float32"
    assert len(model["checkpoint"]) == 32 and len(about["data"]["sha256"]) == 64
    assert model["attention"] in ("sdpa", "eager")
    assert about["versions"]["torch"] and about["prompt"] and about["parser"] == "strict"


class TestDescriptions:
    """Rows of Charades-Description, and a video of TSU-Description described clip by clip; nobody judges here."""

    def test_replies_are_stored_and_marks_are_missing(self, setting):
        rows = [{"video_name": "t0_exo1", "Q": "What happens?", "A": "A block moves.", "cons_Q1": "What is seen?",
                 "cons_Q2": "What goes on?", "cons_A": "A block moves."}]  # fmt: skip
        setting.write(rows)
        setting.rename("Charades-Description.json")
        assert setting.eval(benchmark="adlx-charades-desc") == 0
        (row,) = setting.results()
        assert row["state"] == "unjudged" and len(row["replies"]) == 3 and row["marks"] == {}
        assert "no judge" in row["error"]
        whole = [one for one in setting.metrics()["descriptions"] if one["aspect"] == "correctness"]
        assert whole and all(one["judged"] == 0 and one["missing"] == 1 for one in whole)

    def test_a_long_video_is_described_in_clips(self, setting):
        setting.write({"t0_exo1": "A block moves.", "t1_exo1": "A block moves."})
        setting.rename("TSU-Description.json")
        assert setting.eval(benchmark="adlx-tsu-desc") == 0
        # Two frames a second; the clips have four and five frames.
        assert [len(row["replies"]) for row in setting.results()] == [2, 3]
        assert setting.eval("long", benchmark="adlx-tsu-desc", clip_seconds=60) == 0
        assert [len(row["replies"]) for row in setting.results("long")] == [1, 1]
        assert setting.eval(benchmark="adlx-tsu-desc", clip_seconds=60) == 1

    def test_likelihood_has_no_options_to_compare(self, setting, no_model, capsys):
        setting.write({"t0_exo1": "A block moves."})
        no_model()
        assert setting.eval(benchmark="adlx-tsu-desc", mode="likelihood") == 1
        assert "whose questions have no options" in error_of(capsys)


class TestStored:
    """What lies in a folder is never taken for more than it is."""

    def test_questions_not_asked_yet_are_told_from_missing_videos(self, setting):
        assert killed_at(setting.command(), ReplyStore, 2, 0) == -signal.SIGKILL
        assert setting_main("eval", "--rescore", str(setting.root / "out")) == 0
        errors = [row["error"] for row in setting.results() if row["state"] == "failed"]
        assert len(errors) == 6 and all(error.startswith("not asked yet") for error in errors)

    @pytest.mark.parametrize("change", [lambda text: "", lambda text: text.replace('"answer": "', '"answer": "Z', 1)])
    def test_questions_that_were_changed(self, setting, capsys, change):
        assert setting.eval(limit=2) == 0
        items = setting.root / "out" / "items.jsonl"
        before = (setting.root / "out" / "report.html").read_bytes()
        items.write_text(change(items.read_text()))
        assert setting_main("eval", "--rescore", str(setting.root / "out")) == 1
        assert "is not the one that the run wrote" in error_of(capsys)
        assert (setting.root / "out" / "report.html").read_bytes() == before

    def test_scores_without_options_and_an_unknown_parser(self, setting, capsys):
        out = setting.root / "out"
        assert setting.eval(limit=2, mode="likelihood") == 0
        file = out / "base" / "likelihood" / "replies.jsonl"
        records = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**record, "scores": {}}) + "\n" for record in records))
        assert setting_main("eval", "--rescore", str(out)) == 0
        assert all("scores" in row["error"] for row in setting.results())
        (out / "run.json").write_text((out / "run.json").read_text().replace('"strict"', '"kind"'))
        assert setting_main("eval", "--rescore", str(out)) == 1
        assert "--parser kind" in error_of(capsys)


class TestModelsThatDoNotLoad:
    def test_damaged_weights_are_named_and_what_is_done_is_kept(self, setting, tmp_path, capsys):
        import shutil

        half = tmp_path / "half"
        shutil.copytree(setting.model, half)
        weights = next(half.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:1000])
        assert setting.eval(model=[f"base={setting.model}", f"half={half}"], limit=2) == 1
        message = error_of(capsys)
        assert f"{weights} is no whole safetensors file" in message
        assert len(read_replies(setting.root / "out" / "base" / "generate")) == 2

    def test_a_base_that_is_an_adapter(self, setting, tmp_path, no_model, capsys):
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "config.json").write_text((setting.model / "config.json").read_text())
        (adapter / "adapter_config.json").write_text("{}")
        no_model()
        assert setting.eval(model=f"student={adapter}", model_base=str(adapter)) == 1
        assert "is no whole model" in error_of(capsys)

    def test_a_base_that_nobody_needs(self, setting, no_model, capsys):
        no_model()
        assert setting.eval(model_base=str(setting.model)) == 1
        assert "every model is a whole one" in error_of(capsys)


def test_from_python_one_value_stands_for_one(setting):
    from llava_ego2exo.errors import Ego2ExoError
    from llava_ego2exo.evaluation import Job, Model, evaluate

    given = {"template": setting.template, "max_new_tokens": 4, "frames_upbound": 2, "limit": 1}
    paths = ("ego-in-exo", str(setting.data), str(setting.videos), str(setting.root / "out"))
    found = evaluate(Job(*paths, Model("base", str(setting.model)), "likelihood", **given))
    assert [row["n"] for row in found["accuracy"] if row["category"] == "all"] == [1]
    for names in (["a", "a"], ["../up"], [""], []):
        with pytest.raises(Ego2ExoError, match="models of different names"):
            Job(*paths, tuple(Model(name, str(setting.model)) for name in names))


def test_marks_of_an_earlier_judge_are_kept_without_asking_it(setting, monkeypatch):
    from tests.evaluation.mock_judge import MockJudge

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    setting.write([{"video_name": "t0_exo1", "Q": "What happens?", "A": "A block moves.", "cons_Q1": "What is seen?",
                    "cons_Q2": "What goes on?", "cons_A": "A block moves."}])  # fmt: skip
    setting.rename("Charades-Description.json")
    MockJudge(monkeypatch, lambda _request: '{"score": 3, "reason": "x"}')
    assert setting.eval(benchmark="adlx-charades-desc", judge_url="http://localhost:1/v1", judge_model="judge") == 0
    marks = setting.results()[0]["marks"]
    assert len(marks) == 5 and None not in marks.values()
    assert setting_main("eval", "--rescore", str(setting.root / "out")) == 0
    assert setting.results()[0]["marks"] == marks
    assert setting.eval(benchmark="adlx-charades-desc") == 0
    assert setting.results()[0]["marks"] == marks


@pytest.mark.parametrize("package", ["matplotlib", "jinja2", "snowballstemmer"])
def test_what_the_end_of_a_run_needs_is_asked_for_before_it(setting, no_model, capsys, monkeypatch, package):
    import sys

    from llava_ego2exo.evaluation import option_texts

    option_texts._stem.cache_clear()
    option_texts._stemmer.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    no_model()
    assert setting.eval() == 1
    assert f"{package} is not installed" in error_of(capsys)
