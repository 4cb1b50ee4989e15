"""The demo's parts, and a small run of the whole of it through the llava that is importable."""

import dataclasses
import importlib.util
import json
import subprocess
import time

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.demo import __main__ as demo
from llava_ego2exo.demo import cache
from llava_ego2exo.demo.jobs import Job, losses, run_all, shown
from llava_ego2exo.demo.material import read_tests, write_material
from llava_ego2exo.demo.plan import DEFAULT, FULL_VARIANTS, QUICK, TRAINED, Plan
from llava_ego2exo.demo.results import Results
from llava_ego2exo.demo.world import HELD_OUT, QUESTION_TYPES, chance

needs_llava = pytest.mark.skipif(importlib.util.find_spec("llava") is None, reason="no llava is importable")
TINY = Plan(("control", "distill", "distill+tokens"), encoder_scenes=20, encoder_steps=2, base_scenes=12, base_steps=2,
            pairs=8, steps=10, batch=4, tests=12)  # fmt: skip


def python(name, code, folder, *needs):
    return Job(name, ["python", "-c", code], folder, frozenset(needs))


def test_a_job_waits_for_what_it_needs(tmp_path):
    write = "import pathlib,time; time.sleep(0.3); pathlib.Path('first').touch()"
    read = "import pathlib; assert pathlib.Path('first').exists()"
    run_all([python("second", read, tmp_path, "one"), python("one", write, tmp_path)], print)
    with pytest.raises(Ego2ExoError, match="alone ended with exit code 1"):
        run_all([python("alone", read.replace("first", "never"), tmp_path)], print)


def test_as_many_jobs_at_once_as_told(tmp_path):
    code = (
        "import time,pathlib,sys; t=time.time(); time.sleep(1.0); "
        "pathlib.Path(sys.argv[1]).write_text(f'{t} {time.time()}')"
    )
    some = [Job(name, ["python", "-c", code, name], tmp_path) for name in "abc"]
    run_all(some, print, at_once=2)
    spans = [tuple(map(float, (tmp_path / name).read_text().split())) for name in "abc"]
    overlaps = [
        a[0] < b[1] and b[0] < a[1] for a, b in ((spans[0], spans[1]), (spans[0], spans[2]), (spans[1], spans[2]))
    ]
    assert not all(overlaps)


def test_a_failed_job_ends_the_others_and_tells_its_last_error(tmp_path):
    bad = "import time,sys; time.sleep(0.5); print('noise'); sys.exit('llava_ego2exo: error: no such clip.')"
    started = time.monotonic()
    with pytest.raises(Ego2ExoError, match=r"bad ended with exit code 1: llava_ego2exo: error: no such clip.*bad\.log"):
        run_all(
            [python("long", "import time; time.sleep(60)", tmp_path), python("bad", bad, tmp_path)], print, at_once=2
        )
    assert time.monotonic() - started < 30


def test_progress_is_told(tmp_path):
    code = "import time; print(\"{'loss': 1.5}\", flush=True); time.sleep(1.5)"
    told = []
    run_all([python("student", code, tmp_path)], told.append, every=0.5)
    assert told and told[-1] == "student: step 10, loss 1.500"


def test_losses_are_read_from_the_log(tmp_path):
    (tmp_path / "a.log").write_text("x {'loss': 2.5, 'epoch': 0.1}\n{'loss': '1e-3', 'lr': 3}\n{'train_loss': 9.0}\n")
    assert losses(tmp_path / "a.log") == [(10, 2.5), (20, 0.001)] and losses(tmp_path / "none.log") == []


def test_commands_are_shown_as_they_can_be_pasted(tmp_path):
    text = shown(["python", "-c", "print('a b')", "--flag", "value"])
    assert text == """python -c 'print('"'"'a b'"'"')' \\\n    --flag value"""
    assert subprocess.run(text.split(" --flag")[0].rstrip("\\\n "), shell=True, capture_output=True).stdout == b"a b\n"


def test_variants_differ_in_what_they_claim_alone():
    assert FULL_VARIANTS == tuple(TRAINED) and DEFAULT.variants == ("control", "distill", "distill+tokens")
    assert TRAINED["control"] == TRAINED["distill"] == {}
    assert TRAINED["distill+tokens"].items() < TRAINED["distill+tokens+kl"].items()
    assert not TRAINED["tokens-only"]["ego2exo_visual_tokens"]
    assert {"control", "distill"} <= set(QUICK.variants)


def test_material_of_a_seed(tmp_path):
    tests = write_material(tmp_path, TINY, 0)
    assert len(tests) == TINY.tests and len(list((tmp_path / "pairs").iterdir())) == 2 * TINY.pairs
    held = {(event.object, event.region) for scene, *_ in tests for event in scene.events}
    assert held <= HELD_OUT
    again = read_tests(tmp_path / "tests.json", "exo")
    assert [(scene, file) for scene, _, file in tests] == again
    control = json.loads((tmp_path / "control.json").read_text())
    assert {sample["video"] for sample in control} == {f"clip{i:05d}_exo1.mp4" for i in range(TINY.pairs)}
    assert all("ego_video" not in sample for sample in control)


def test_names_and_paths_tell_no_answer(tmp_path):
    from llava_ego2exo.demo.world import HANDS, OBJECTS, REGIONS

    write_material(tmp_path, TINY, 0)
    names = " ".join(path.name for path in tmp_path.rglob("*"))
    assert not [word for word in (*HANDS, *OBJECTS, *(r.replace(" ", "_") for r in REGIONS)) if word in names]


def test_a_finished_base_is_used_again_and_an_unfinished_one_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("llava_ego2exo.host.flavour.detect", lambda: "next")
    made = []

    def make(plan, seed, base, say):
        base.model.mkdir()
        made.append(base)
        if len(made) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_make", make)
    with pytest.raises(KeyboardInterrupt):
        cache.get_base(TINY, 0, tmp_path, print)
    first, second = (cache.get_base(TINY, 0, tmp_path, print) for _ in range(2))
    assert first == second and len(made) == 2 and first.template == "qwen_1_5"
    cache.get_base(TINY, 1, tmp_path, print)
    cache.get_base(dataclasses.replace(TINY, base_steps=3), 0, tmp_path, print)
    assert len({base.model for base in made}) == 3
    cache.get_base(dataclasses.replace(TINY, steps=3, tests=5), 0, tmp_path, print)
    assert len(made) == 4


def test_flags():
    args = demo.parse([])
    assert demo.plan_of(args) == DEFAULT and args.seeds == 1
    assert demo.plan_of(demo.parse(["--full"])).variants == FULL_VARIANTS
    assert demo.plan_of(demo.parse(["--quick"])) == QUICK
    for wrong in (["--seeds", "0"], ["--quick", "--full"], ["--first-seed", "-1"]):
        with pytest.raises(SystemExit):
            demo.parse(wrong)


def test_added_variants():
    plan = demo.plan_of(
        demo.parse(["--add", "slow: --ego2exo True --ego2exo_lr 0.001", "--add", "n32:--ego2exo_num_tokens 32"])
    )
    assert plan.variants == (*DEFAULT.variants, "slow", "n32")
    assert plan.flags("slow") == {"ego2exo": "True", "ego2exo_lr": "0.001"} and plan.flags("distill") == {}


@pytest.mark.parametrize(
    "text", ["no flags", "a: --flag", "a: flag value", "distill: --ego2exo True", "a/b: --x 1", ":--x 1"]
)
def test_added_variants_of_another_form(text, capsys):
    assert demo.main(["--add", text]) == 1
    assert "'NAME: --flag value ...'" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_gain_is_on_the_mean_over_question_types():
    def variant(*seeds):
        return {
            kind: [value + offset for value in seeds]
            for kind, offset in zip(QUESTION_TYPES, (-3, -1, 1, 3), strict=True)
        }

    results = Results({"control": variant(30.0, 40.0), "distill": variant(70.0, 65.5)}, chance())
    assert demo.gain(results).endswith("+40.0, +25.5")


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    """Where the first run leaves its base, and the second finds it."""
    return tmp_path_factory.mktemp("cache")


@needs_llava
@pytest.mark.slow
def test_distillation_beats_the_control_on_combinations_never_trained(tmp_path, cache_folder, capsys):
    """The method at its smallest: minutes, one seed, so far less than the demo's own margin is asked for."""
    assert demo.main(["--quick", "--out", str(tmp_path / "out"), "--cache", str(cache_folder)]) == 0
    variants = json.loads((tmp_path / "out/metrics.json").read_text())["variants"]
    means = {name: types["mean"]["mean"] for name, types in variants.items()}
    print(means)
    assert means["distill"] > means["control"] + 5
    assert means["teacher"] > 70 and abs(means["base"] - means["chance"]) < 8
    assert "distill above control" in capsys.readouterr().out


@needs_llava
@pytest.mark.slow
def test_every_variant_and_what_is_kept(tmp_path, cache_folder, monkeypatch, capsys):
    """Steps too few to learn anything: that every command runs, and the form of the results."""
    few = dataclasses.replace(QUICK, variants=FULL_VARIANTS, pairs=16, steps=10, batch=4, tests=12)
    monkeypatch.setattr(demo, "FULL", few)
    out = tmp_path / "out"
    assert demo.main(["--full", "--out", str(out), "--cache", str(cache_folder)]) == 0
    text = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["variants"]) == {"base", *FULL_VARIANTS, "teacher", "chance"}
    for types in metrics["variants"].values():
        assert set(types) == {*QUESTION_TYPES, "mean"}
        assert types["mean"]["mean"] == pytest.approx(sum(types[kind]["mean"] for kind in QUESTION_TYPES) / 4)
    assert set(metrics["ablations"]["distill+tokens"]) == {"none", "removed", "other clip", "alone"}
    assert set(metrics["ablations"]["tokens-only"]) == {"none", "other clip"}
    for name in ("--ego2exo True", "--ego2exo_kd_weight 1.0", "teach", "targets", "report.html"):
        assert name in text
    samples = json.loads((out / "seed0/distill.json").read_text())
    assert 0 < len(samples) <= 3 * 16 and all(sample["ego_video"].endswith("_ego.mp4") for sample in samples)
    assert "<svg" in (out / "report.html").read_text()
