"""Real clips, copied and renamed as pairs: build, check, teach, targets, train, load, answer, with a tiny model."""

import json
import shutil

import pytest

from llava_ego2exo import ask, cli
from llava_ego2exo.host.inference.answerer import load

ANSWERS = {"pancake": "The pan turns the pancake over.", "street": "A man talks in front of a wall."}
QUERY = "What happens?"


@pytest.fixture
def paired(real_videos, tmp_path):
    """A folder of two segments, each with an ego and an exo file; the two cameras' files are the same clip."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for segment, name in (("pancake", "flipping_a_pancake.mkv"), ("street", "xU25MMA2N4aVtYay.mp4")):
        for view in ("ego", "exo1"):
            shutil.copy(real_videos / name, folder / f"{segment}_{view}{name[name.rindex('.') :]}")
    return folder


def teacher_of(paired, train, kind, out):
    """A tiny model that knows the two ego clips by heart."""
    samples = []
    for file in sorted(paired.glob("*_ego.*")):
        answer = {"from": "gpt", "value": ANSWERS[file.stem.removesuffix("_ego")]}
        turns = [{"from": "human", "value": f"<image>\n{QUERY}"}, answer]
        samples.append({"id": file.stem, "video": file.name, "conversations": turns})
    data = out.with_suffix(".json")
    data.write_text(json.dumps(samples))
    flags = {"lora_enable": False, "num_train_epochs": 30, "learning_rate": 2e-3, "ego2exo_frame_cache": out / "frames"}
    train(out, kind, data_path=data, video_folder=paired, **flags)
    return out


@pytest.mark.slow
def test_real_clips_from_files_to_an_answering_student(paired, world, train, kinds, tmp_path, capsys):
    kind = kinds[-1]
    pairs, answers, data = paired / "pairs.jsonl", tmp_path / "answers", tmp_path / "train.json"
    assert cli.main(["pairs", "build", "--videos", str(paired), "--out", str(pairs)]) == 0
    assert cli.main(["pairs", "check", "--pairs", str(pairs)]) == 1  # the two cameras' files are one, and it says so
    assert "the same video" in capsys.readouterr().out
    teacher = teacher_of(paired, train, kind, tmp_path / "teacher")
    (tmp_path / "queries.json").write_text(json.dumps({"descriptive": [QUERY]}))
    asked = ["--queries", str(tmp_path / "queries.json"), "--template", world.template(kind), "--frames-upbound", "4"]
    assert cli.main(["teach", "--pairs", str(pairs), "--model", str(teacher), "--out", str(answers), *asked]) == 0
    for seed in range(20):  # until both placeholders stand where `ask` puts them: two samples cannot teach both places
        made = ["targets", "--pairs", str(pairs), "--answers", str(answers), "--out", str(data), "--seed", str(seed)]
        assert cli.main([*made, "--video-folder", str(paired)]) == 0
        samples = json.loads(data.read_text())
        if all(sample["conversations"][0]["value"].startswith("<image>") for sample in samples):
            break
    assert {sample["segment"]: sample["conversations"][1]["value"] for sample in samples} == ANSWERS
    flags = {"num_train_epochs": 40, "ego2exo_kd_weight": 0.5, "ego2exo_frame_cache": teacher / "frames"}
    trainer = train(tmp_path / "student", kind, data_path=data, video_folder=paired, ego2exo_teacher=teacher, **flags)
    logged = [entry for entry in trainer.state.log_history if "loss_kl" in entry]
    assert logged[-1]["loss_ce"] < logged[0]["loss_ce"] / 5 and logged[-1]["kl_tokens"] > 0
    student = load(str(tmp_path / "student"), str(world.base(kind)), torch_dtype="float32")
    for segment, text in ANSWERS.items():
        exo = next(paired.glob(f"{segment}_exo1.*"))
        assert ask(student, str(exo), QUERY, template=world.template(kind), frames_upbound=4) == text
