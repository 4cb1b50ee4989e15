"""pairs, teach --top-k, targets, train: a student learns from stored logits as from the teacher that wrote them."""

import json

import pytest
import torch

from llava_ego2exo import cli
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.pairs.pair import Pair

from ..conftest import losses
from .distillation import PLAIN


def test_stored_logits_of_teach(world, train, student, kinds, tmp_path):
    kind, videos = kinds[-1], sorted(map(str, world.videos.glob("*.mp4")))
    teacher = str(student(kind, "full").folder)
    pairs = [Pair(f"t{i}", videos[i], {"exo1": videos[(i + 1) % 4]}) for i in range(4)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "queries.json").write_text(json.dumps({"what": ["What moves, and where to?"]}))
    common = ["--pairs", str(tmp_path / "pairs.jsonl")]
    vocabulary = json.loads((world.base(kind) / "config.json").read_text())["vocab_size"]
    model = ["--model", teacher, "--template", world.template(kind), "--top-k", str(vocabulary)]
    asked = ["--out", str(tmp_path / "answers"), "--queries", str(tmp_path / "queries.json"), "--frames-upbound", "4"]
    assert cli.main(["teach", *common, *model, *asked]) == 0
    made = ["--answers", str(tmp_path / "answers"), "--out", str(tmp_path / "train.json")]
    assert cli.main(["targets", *common, *made, "--video-folder", str(world.videos)]) == 0
    samples = json.loads((tmp_path / "train.json").read_text())
    for sample in samples:  # as `teach` asks: otherwise the teacher of the second run sees another prompt
        question = sample["conversations"][0]["value"].replace("<image>", "").strip()
        sample["conversations"][0]["value"] = f"<image>\n{question}"
    (tmp_path / "train.json").write_text(json.dumps(samples))
    flags = {**PLAIN, "data_path": tmp_path / "train.json", "ego2exo_kd_weight": 1.0, "num_train_epochs": 3}
    teachers = {
        "cached": {"ego2exo_teacher": "cached", "ego2exo_answers": tmp_path / "answers"},
        "path": {"ego2exo_teacher": teacher},
    }
    runs = {}
    for name, teacher in teachers.items():
        torch.manual_seed(0)
        runs[name] = train(tmp_path / name, kind, **flags, **teacher)
    logs = {name: [e for e in run.state.log_history if "loss_kl" in e] for name, run in runs.items()}
    assert len(samples) == 4 and all(sample["answer_keys"] and sample["ego_video"] for sample in samples)
    found = [entry["kl_tokens"] for entry in logs["cached"]]
    assert found == [sum(map(_length, samples_files(tmp_path, samples)))] * 3  # every stored token was found
    if kind == "llama":  # whose template has no supervised tokens around an answer, so that the KL is the same
        for name in ("kl_tokens", "loss_kl"):
            stored, online = ([entry[name] for entry in logs[way]] for way in ("cached", "path"))
            assert stored == pytest.approx(online, rel=0.02)
    assert losses(runs["cached"])[-1] < losses(runs["cached"])[0]


def samples_files(folder, samples):
    return [folder / "answers" / "top_k" / key[:2] / f"{key}.npz" for s in samples for key in s["answer_keys"]]


def _length(file):
    import numpy as np

    return len(np.load(file)["tokens"])
