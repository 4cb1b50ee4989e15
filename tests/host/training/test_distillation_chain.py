"""pairs, teach --top-k, targets, train: a student learns from the logits that its teacher stored."""

import json

import numpy as np

from llava_ego2exo import cli
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.pairs.pair import Pair

from ..conftest import losses
from .distillation import PLAIN


def test_stored_logits_of_teach(world, train, student, tmp_path):
    videos = sorted(map(str, world.videos.glob("*.mp4")))
    pairs = [Pair(f"t{i}", videos[i], {"exo1": videos[(i + 1) % 4]}) for i in range(4)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "queries.json").write_text(json.dumps({"what": ["What moves, and where to?"]}))
    common, answers = ["--pairs", str(tmp_path / "pairs.jsonl")], tmp_path / "answers"
    model = ["--model", str(student("llama", "full").folder), "--template", world.template("llama"), "--top-k", "5"]
    asked = ["--out", str(answers), "--queries", str(tmp_path / "queries.json"), "--frames-upbound", "4"]
    assert cli.main(["teach", *common, *model, *asked]) == 0
    made = ["--answers", str(answers), "--out", str(tmp_path / "train.json"), "--video-folder", str(world.videos)]
    assert cli.main(["targets", *common, *made]) == 0
    samples = json.loads((tmp_path / "train.json").read_text())
    assert len(samples) == 4 and all(sample["answer_keys"] and sample["ego_video"] for sample in samples)
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": answers, "ego2exo_kd_weight": 1.0}
    cached |= {"bf16": True, "data_path": tmp_path / "train.json"}
    trainer = train(tmp_path / "s", "llama", **PLAIN, **cached, num_train_epochs=3)
    logs = [entry["kl_tokens"] for entry in trainer.state.log_history if "loss_kl" in entry]
    files = [answers / "top_k" / key[:2] / f"{key}.npz" for sample in samples for key in sample["answer_keys"]]
    assert logs == [sum(len(np.load(file)["tokens"]) for file in files)] * 3  # every stored token was found
    assert losses(trainer)[-1] < losses(trainer)[0]
