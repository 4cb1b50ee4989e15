"""What `targets` writes is what LLaVA's train reads."""

import json
import math

import pytest

from llava_ego2exo import cli
from llava_ego2exo.common.files import file_hash
from llava_ego2exo.distill.pairs.file import write_pairs
from llava_ego2exo.distill.pairs.pair import Pair
from llava_ego2exo.distill.teach.store import Answer, write_answers

from ..conftest import losses


@pytest.fixture
def paired(world, tmp_path):
    """Two segments of the world's videos, answered, and general data with a picture to replay."""
    from PIL import Image

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
    write_answers(tmp_path / "answers", answers)
    return tmp_path


@pytest.mark.parametrize("turns", ["one", "all"])
def test_it_trains(turns, paired, world, train, kinds, capsys):
    kind = kinds[-1]
    if turns == "all" and kind == "llama":
        pytest.skip("LLaVA asks a Llama tokenizer for `legacy` from the second turn on, which the tiny one lacks")
    argv = ["--pairs", "pairs.jsonl", "--answers", "answers", "--out", "train.json", "--mix", "general.json"]
    argv = [word if word.startswith("--") else str(paired / word) for word in argv]
    ratio = {"one": "0.25", "all": "0.5"}[turns]
    argv += ["--turns", turns, "--mix-ratio", ratio, "--video-folder", str(world.videos)]
    assert cli.main(["targets", *argv]) == 0
    told = capsys.readouterr().out.splitlines()[-1].split()
    flags = {name.removeprefix("--"): value for name, value in zip(told[::2], told[1::2], strict=True)}
    trainer = train(paired / "run", kind, num_train_epochs=1, per_device_train_batch_size=2, **flags)
    assert len(trainer.train_dataset) == {"one": 8, "all": 4}[turns]
    assert all(math.isfinite(loss) for loss in losses(trainer)) and losses(trainer)
    labels = [trainer.train_dataset[i]["labels"].tolist() for i in range(len(trainer.train_dataset))]
    supervised = [trainer.tokenizer.decode([i for i in row if i >= 0]).count("A block.") for row in labels]
    assert sum(supervised) == 6
