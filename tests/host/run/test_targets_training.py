"""What `targets` writes is what LLaVA's train reads."""

import json
import math

import pytest
from PIL import Image

from llava_ego2exo import cli
from llava_ego2exo.common.files import file_hash
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.pairs.pair import Pair
from llava_ego2exo.distill.teach.store import Answer, answer_store

from ..conftest import losses


@pytest.fixture
def paired(world, tmp_path):
    """Two segments of the world's videos, answered, and general data with a picture to replay."""
    Image.new("RGB", (40, 28)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A wall."}]
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    general = [{"id": 0, "image": "a.png", "conversations": turns}, {"id": 1, "conversations": text}]
    (tmp_path / "general.json").write_text(json.dumps(general))
    videos = sorted(map(str, world.videos.glob("*.mp4")))[:4]
    pairs = [Pair(f"t{i}", videos[2 * i], {"exo1": videos[2 * i + 1]}) for i in range(2)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "answers").mkdir()
    answers = [
        Answer(
            f"{pair.segment}{kind}".ljust(32, "0"), pair.segment, "train", kind, f"A {kind} question?", "A block.", (),
            4, file_hash(pair.ego), None, None, "f" * 64, {},
        )
        for pair in pairs for kind in ("spatial", "temporal", "descriptive")
    ]  # fmt: skip
    answer_store(tmp_path / "answers").finish(answers)
    return tmp_path


def test_it_trains(paired, world, train, kinds, capsys):
    """With all questions about a clip in one sample where the template takes several turns."""
    kind = kinds[-1]
    # LLaVA asks a Llama tokenizer for `legacy` from the second turn on, which the tiny one lacks.
    turns, ratio, samples = ("one", "0.25", 8) if kind == "llama" else ("all", "0.5", 4)
    argv = ["--pairs", "pairs.jsonl", "--answers", "answers", "--out", "train.json", "--mix", "general.json"]
    argv = [word if word.startswith("--") else str(paired / word) for word in argv]
    argv += ["--turns", turns, "--mix-ratio", ratio, "--video-folder", str(world.videos)]
    assert cli.main(["targets", *argv]) == 0
    printed = capsys.readouterr().out.splitlines()[-1].split()
    flags = {name.removeprefix("--"): value for name, value in zip(printed[::2], printed[1::2], strict=True)}
    trainer = train(paired / "run", kind, num_train_epochs=1, per_device_train_batch_size=2, **flags)
    data = trainer.train_dataset
    assert len(data) == samples and losses(trainer) and all(math.isfinite(loss) for loss in losses(trainer))
    supervised = [[token for token in data[i]["labels"].tolist() if token >= 0] for i in range(len(data))]
    assert sum(trainer.tokenizer.decode(row).count("A block.") for row in supervised) == 6
