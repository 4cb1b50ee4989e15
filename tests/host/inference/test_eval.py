"""`eval` with tiny models: replies, interruptions, several processes, failures, rescoring, and what it refuses."""

import json
import shutil
import sys

import pytest

import llava_ego2exo
from llava_ego2exo import cli
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.evaluation import EvalJob, EvalModel, evaluate
from llava_ego2exo.evaluation.benchmarks.registry import read_benchmark
from llava_ego2exo.evaluation.items import read_replies
from llava_ego2exo.evaluation.plan import prompt_of
from llava_ego2exo.evaluation.replies import text as option_texts
from llava_ego2exo.host.inference import answerer
from llava_ego2exo.video import read_video, reader
from tests.evaluation.mock_judge import MockJudge

from .asking import command_line, error_of, files_in, generate
from .evaluation import Setting, perception_rows

pytestmark = pytest.mark.usefixtures("registered")
BOTH = {"view": "both", "mode": "generate likelihood"}
CHARADES = {
    "video_name": "t0_exo1", "Q": "What happens?", "A": "A block moves.", "cons_Q1": "What is seen?",
    "cons_Q2": "What moves?", "cons_A": "A block moves.",
}  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered") / "videos"
    return folder, perception_rows(folder)


def made(root, rendered, world):
    shutil.copytree(rendered[0], root / "videos")
    return Setting(root, world, [dict(row) for row in rendered[1]])


@pytest.fixture(scope="module")
def answered(rendered, tmp_path_factory, world):
    """A finished run: both cameras in both modes."""
    setting = made(tmp_path_factory.mktemp("answered"), rendered, world)
    llava_ego2exo.register()
    assert setting.eval(**BOTH) == 0
    llava_ego2exo.unregister()
    return setting


@pytest.fixture
def setting(rendered, tmp_path, world):
    return made(tmp_path, rendered, world)


@pytest.fixture
def finished(answered, setting):
    shutil.copytree(answered.root / "out", setting.root / "out")
    return setting


def test_replies_are_the_models_own_and_asked_once(answered, no_model, capsys):
    loaded = answerer.load(str(answered.model), torch_dtype="float32")
    results = [row for row in answered.results() if row["mode"] == "generate"]
    assert [row["video"] for row in results[:4]] == ["t0_exo1.mp4", "t0_ego.mp4"] * 2 and len(results) == 16
    assert [json.loads(line)["id"] for line in answered.replies().splitlines()] == [row["id"] for row in results]
    for row in results:
        frames = read_video(str(answered.videos / row["video"]), frames_upbound=3).frames
        pixels = loaded[2].preprocess(list(frames), return_tensors="pt")["pixel_values"]
        options = " ".join(f"({key}) {text}" for key, text in row["choices"].items())
        rest = f"The output should be the choice among one of the following choices. Choices are {options}"
        assert row["reply"] == generate(loaded, pixels, f"{row['question']} {rest}", answered.template, 6)
    assert len({row["reply"] for row in results}) > 3
    total = answered.row(category="all", view="exo", mode="generate")
    assert total["n"] == 8 == total["parsed"] + total["unparsed"] + total["failed"]
    assert answered.row(category="all", view="ego", mode="likelihood")["parsed"] == 8
    about = answered.metrics()["provenance"]
    model = about["models"][0]
    assert model["settings"]["frames_upbound"] == 3 and len(model["checkpoint"]) == 32
    assert len(about["data"]["sha256"]) == 64 and about["versions"]["torch"] and about["parser"] == "strict"
    before = files_in(answered.root / "out")
    no_model()
    assert answered.eval(**BOTH) == 0
    assert files_in(answered.root / "out") == before
    assert "report.html" in capsys.readouterr().out


def test_a_student_in_the_authors_folder(rendered, student, world, tmp_path, capsys):
    """As published: `egoperceptionmcq/egoinexoperception.json` and its videos; two options of one text are asked."""
    trained, folder = student("llama", "lora"), tmp_path / "bench" / "egoperceptionmcq"
    shutil.copytree(rendered[0], folder / "videos")
    rows = [dict(row) for row in rendered[1]]
    rows[1]["answer_choices"] = dict(rows[1]["answer_choices"], A="twice", D="twice")
    (folder / "egoinexoperception.json").write_text(json.dumps(rows))
    command = {
        "benchmark": "ego-in-exo", "data": folder.parent, "view": "both", "model": f"student={trained.folder}",
        "model_base": trained.base, "template": world.template("llama"), "max_new_tokens": 8, "frames_upbound": 4,
        "mode": "generate likelihood", "out": tmp_path / "out",
    }  # fmt: skip
    assert cli.main(command_line("eval", command)) == 0
    assert "note: 2 item(s) have options with the same text" in capsys.readouterr().out
    measured = json.loads((tmp_path / "out/metrics.json").read_text())
    assert measured["provenance"]["videos"] == str(folder / "videos")
    totals = [row for row in measured["accuracy"] if row["category"] == "all"]
    assert [(row["view"], row["n"], row["failed"]) for row in totals] == [("exo", 8, 0), ("ego", 8, 0)] * 2
    assert {row["parsed"] for row in totals if row["mode"] == "likelihood"} == {8}
    results = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert sum("block" in row["reply"] for row in results) > 3  # what it was trained to say


def test_a_video_is_read_once_for_all_its_questions(setting, monkeypatch):
    read, original = [], reader.read_video
    monkeypatch.setattr(reader, "read_video", lambda path, *a, **k: read.append(path) or original(path, *a, **k))
    assert setting.eval() == 0
    assert len(read) == len(set(read)) == 4


def test_a_stopped_run_names_what_was_not_asked_and_resumes(finished, answered):
    file = finished.root / "out" / "base" / "generate" / "replies.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    file.with_name("replies.part-0.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    assert cli.main(["eval", "--rescore", str(finished.root / "out")]) == 0
    errors = [row["error"] for row in finished.results() if row["state"] == "failed"]
    assert len(errors) == 11 and all(error.startswith("not asked yet") for error in errors)
    assert finished.eval(**BOTH) == 0
    assert finished.replies() == answered.replies()


@pytest.mark.slow
def test_a_student_taught_letters_is_read_alike_in_both_modes(setting, train, tmp_path):
    """A LoRA student with its base beside the base, from LLaVA's own training on the benchmark's own questions."""
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
        num_train_epochs=40, per_device_train_batch_size=8, frames_upbound=3,
    )  # fmt: skip
    models = [f"base={setting.model}", f"student={tmp_path / 'student'}"]
    assert setting.eval(model=models, model_base=str(setting.model), mode="generate likelihood") == 0
    assert setting.metrics()["provenance"]["compared with"] == setting.metrics()["compare_to"] == "base"
    picked = {mode: [r["picked"] for r in setting.results() if r["model"] == "student" and r["mode"] == mode]
              for mode in ("generate", "likelihood")}  # fmt: skip
    assert picked["generate"] == picked["likelihood"] == [item.answer for item in items]
    assert setting.row(model="student", mode="generate", category="all")["accuracy"] == 100


def test_an_unreadable_video_counts_as_wrong_and_is_asked_again(setting, answered, capsys):
    broken = setting.videos / "t1_exo1.mp4"
    good = broken.read_bytes()
    broken.write_bytes(b"no video" * 100)
    assert setting.eval(**BOTH) == 1
    assert str(broken) in error_of(capsys)
    total = setting.row(category="all", view="exo", mode="generate")
    assert (total["n"], total["failed"]) == (8, 2) and total["parsed"] + total["unparsed"] == 6
    broken.write_bytes(good)
    assert setting.eval(**BOTH, max_failures=2) == 0
    assert setting.replies() == answered.replies()


def test_missing_videos_are_named_before_work_and_never_answered_blind(setting, capsys):
    (setting.videos / "t1_exo1.mp4").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answerer, "load", lambda *_a, **_k: pytest.fail("a model was loaded"))
        assert setting.eval() == 1
    assert "t1_exo1" in error_of(capsys) and not (setting.root / "out").exists()
    assert setting.eval(max_failures=2) == 0
    failed = [row for row in setting.results() if row["state"] == "failed"]
    assert len(failed) == 2 and all("not there" in row["error"] and not row["reply"] for row in failed)


def test_rescoring_needs_no_model_video_or_data(finished, no_model, capsys):
    out, strict = finished.root / "out", finished.metrics()
    shutil.rmtree(finished.videos)
    finished.data.unlink()
    no_model()

    def rescore(*flags):
        return cli.main(["eval", "--rescore", str(out), *flags])

    assert rescore("--parser", "viscop") == 0 and finished.metrics()["provenance"]["parser"] == "viscop"
    assert rescore("--parser", "strict") == 0 and finished.metrics() == strict
    file = out / "base" / "likelihood" / "replies.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**record, "scores": {}}) + "\n" for record in records))
    assert rescore() == 0
    assert all("scores" in row["error"] for row in finished.results() if row["mode"] == "likelihood")
    for name, old, new, token in (
        ("run.json", '"strict"', '"kind"', "--parser kind"), ("items.jsonl", '"answer": "', '"answer": "Z', "items.js"),
    ):  # fmt: skip
        text = (out / name).read_text()
        (out / name).write_text(text.replace(old, new, 1))
        assert rescore() == 1 and token in error_of(capsys)
        (out / name).write_text(text)
    (out / "run.json").unlink()
    assert rescore() == 1 and "run.json" in error_of(capsys)


class TestRefused:
    def test_flags(self, setting, tmp_path, no_model, capsys):
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "config.json").write_text((setting.model / "config.json").read_text())
        (adapter / "adapter_config.json").write_text("{}")
        no_model()
        for flags, token in (
            ({"benchmark": "ego-in-ego"}, "ego-in-exo, adlx-charades-ar"),
            ({"model": "base=/nowhere"}, "/nowhere"),
            ({"max_new_tokens": 10**6}, "positions"),
            ({"check": True, "rescore": "x"}, "--check and --rescore"),
            ({"probe": True}, "--probe without --check"),
            ({"check": True, "limit": -1}, "--limit -1"),
            ({"model": ["/a", "/b/a"]}, "--model base=CKPT --model student=CKPT"),
            ({"model_base": f"base={setting.model}"}, "holds a whole model"),
            ({"model_base": setting.model}, "every model is a whole one"),
            ({"model": f"student={adapter}", "model_base": adapter}, "is no whole model"),
            ({"model": f"student={adapter}"}, "as --model-base, or merge it"),
        ):
            assert setting.eval(**flags) == 1
            assert token in error_of(capsys), flags

    def test_other_data_or_settings_in_the_same_folder(self, finished, no_model, capsys):
        before = finished.replies()
        no_model()
        assert finished.eval(**BOTH, frames_upbound=2) == 1
        assert "frames_upbound: 3, now 2" in error_of(capsys)
        finished.write(finished.rows[:-1])
        assert finished.eval(**BOTH) == 1
        assert "data.sha256" in error_of(capsys)
        assert finished.replies() == before

    def test_damaged_weights_are_named_and_what_is_done_is_kept(self, setting, tmp_path, capsys):
        half = tmp_path / "half"
        shutil.copytree(setting.model, half)
        weights = next(half.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:1000])
        assert setting.eval(model=[f"base={setting.model}", f"half={half}"], limit=2) == 1
        assert str(weights) in error_of(capsys)
        assert len(read_replies(setting.root / "out" / "base" / "generate")) == 2

    @pytest.mark.parametrize("package", ["jinja2", "snowballstemmer"])
    def test_what_the_end_of_a_run_needs_is_asked_for_before_it(self, setting, no_model, capsys, monkeypatch, package):
        option_texts._stem.cache_clear()
        option_texts._stemmer.cache_clear()
        monkeypatch.setitem(sys.modules, package, None)
        no_model()
        assert setting.eval() == 1
        assert package in error_of(capsys)


def test_a_long_video_is_described_in_clips(setting, no_model, capsys):
    setting.write({"t0_exo1": "A block moves.", "t1_exo1": "A block moves."})
    setting.rename("TSU-Description.json")
    assert setting.eval(benchmark="adlx-tsu-desc") == 0
    # Two frames a second; the clips have four and five frames.
    assert [len(row["replies"]) for row in setting.results()] == [2, 3]
    no_model()
    assert setting.eval(benchmark="adlx-tsu-desc", clip_seconds=60) == 1
    assert "clip seconds" in error_of(capsys)
    assert setting.eval(benchmark="adlx-tsu-desc", mode="likelihood") == 1
    assert "--mode likelihood" in error_of(capsys)


def test_scores_are_missing_until_a_judge_gives_them_and_are_then_kept(setting, no_model, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    setting.write([CHARADES])
    setting.rename("Charades-Description.json")
    assert setting.eval(benchmark="adlx-charades-desc") == 0
    (row,) = setting.results()
    assert (row["state"], len(row["replies"]), row["scores"]) == ("unjudged", 3, {}) and "no judge" in row["error"]
    assert f"eval --rescore {setting.root / 'out'} --judge-url" in capsys.readouterr().out
    no_model()
    MockJudge(monkeypatch, lambda _request: '{"score": 3, "reason": "x"}')
    assert setting.eval(benchmark="adlx-charades-desc", judge_url="http://localhost:1/v1", judge_model="judge") == 0
    scores = setting.results()[0]["scores"]
    assert len(scores) == 5 and None not in scores.values()
    assert cli.main(["eval", "--rescore", str(setting.root / "out")]) == 0
    assert setting.results()[0]["scores"] == scores
    assert setting.eval(benchmark="adlx-charades-desc") == 0
    assert setting.results()[0]["scores"] == scores and "are missing" not in capsys.readouterr().out


def test_from_python_one_value_stands_for_one_and_more_questions_ask_only_those(setting):
    given = {"template": setting.template, "max_new_tokens": 4, "frames_upbound": 2}
    paths = ("ego-in-exo", str(setting.data), str(setting.videos), str(setting.root / "out"))
    kept = []
    for limit, count in ((1, 1), (0, 8)):
        found = evaluate(EvalJob(*paths, EvalModel("base", str(setting.model)), "likelihood", limit=limit, **given))
        assert [row["n"] for row in found["accuracy"] if row["category"] == "all"] == [count]
        kept.append(setting.replies(mode="likelihood").splitlines())
    assert len(kept[1]) == 8 and kept[1][:1] == kept[0]
    for names in (["a", "a"], ["../up"], []):
        with pytest.raises(Ego2ExoError, match="--model"):
            EvalJob(*paths, tuple(EvalModel(name, str(setting.model)) for name in names))
