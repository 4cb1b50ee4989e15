"""Samples as the model gets them."""

import json
import math

import pytest

from llava_ego2exo.errors import Ego2ExoError
from tests.videos import QUESTION, sample

from ..conftest import losses
from .distillation import write_json

# LLaVA's own run
PLAIN_LLAVA = dict.fromkeys(("ego2exo", "ego2exo_num_tokens", "ego2exo_check_saved")) | {"max_steps": 1}
PLAIN_LLAVA |= {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_use_im_patch_token": False}


def test_a_batch_of_videos_images_and_text(train, tmp_path):
    """The time instruction comes once, and the answer alone is supervised."""
    from PIL import Image

    Image.new("RGB", (40, 28)).save(tmp_path / "a.png")
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    entries = [
        sample("00_red_left.mp4", "A red block moves left."),
        {"id": 1, "image": "a.png", "conversations": sample("", "A wall.")["conversations"]},
        {"id": 2, "conversations": text},
        sample("01_green_right.mp4", "A green block."),
    ]
    flags = {"image_folder": tmp_path, "num_train_epochs": 1, "add_time_instruction": True, "force_sample": True}
    trainer = train(tmp_path / "run", data_path=write_json(tmp_path / "data.json", entries), **flags)
    dataset = trainer.train_dataset
    batch = trainer.data_collator([dataset[i] for i in range(4)])
    assert batch["modalities"] == ["video", "image", "text", "video"] and math.isfinite(losses(trainer)[0])
    item = dataset[0]  # read again
    assert dataset.list_data_dict[0]["conversations"][0]["value"] == f"<image>\n{QUESTION}"
    text, supervised = (
        dataset.tokenizer.decode([i for i in item[name].tolist() if i >= 0]) for name in ("input_ids", "labels")
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())  # by which the student is asked
    assert config["add_time_instruction"] is True and config["force_sample"] is True
    assert text.count("The video lasts for 4.00 seconds") == 1 and (item["input_ids"] == -200).sum() == 1
    assert "A red block moves left." in supervised and "What moves" not in supervised


@pytest.fixture
def published(world, tmp_path):
    """A training file laid out as the authors' published one: one exo view and one id for all queries of a segment."""
    (tmp_path / "exocentric_videos").symlink_to(world.videos)
    rows = []
    for video in sorted(path.name for path in world.videos.glob("*.mp4")):
        for number, query in enumerate(("What moves?", "Where to?", "What colour is it?")):
            asked = f"{query}\n<video>" if number == 1 else f"<video>\n{query}"
            turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": "A block moves."}]
            rows.append({"id": video[:2], "video": f"exocentric_videos/{video}", "conversations": turns})
    return write_json(tmp_path / "egoexo4d-exoviews-with-egocaptions.json", rows)


def test_the_authors_published_file_trains_as_it_is(published, kinds, train, tmp_path):
    """Each video stays before or behind its query, with the time instruction it comes first."""
    flags = {"data_path": published, "video_folder": tmp_path, "num_train_epochs": 1, "ego2exo_max_bad": 1}
    trainer = train(tmp_path / "run", kinds[-1], **flags)
    assert len(losses(trainer)) == 3 and all(map(math.isfinite, losses(trainer))) and not trainer.skipped
    dataset = trainer.train_dataset
    for index, query in enumerate(("What moves?", "Where to?", "What colour is it?")):
        ids = dataset[index]["input_ids"].tolist()
        place = ids.index(-200)
        before, behind = dataset.tokenizer.decode(ids[:place]), dataset.tokenizer.decode(ids[place + 1 :])
        assert ids.count(-200) == 1 and query in (before if index == 1 else behind)
        assert "<video>" not in before + behind
    dataset.data_args.add_time_instruction = True
    ids = dataset[1]["input_ids"].tolist()
    assert ids.count(-200) == 1 and "Where to?" in dataset.tokenizer.decode(ids[ids.index(-200) + 1 :])


def test_the_authors_file_beside_other_folders(published, train, no_weights, tmp_path):
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "run", data_path=published, video_folder=tmp_path / "exocentric_videos")
    assert "12 x file" in error.value.given and "exocentric_videos/exocentric_videos/" in error.value.given


def test_the_authors_file_without_ego_tokens(published, world, train, tmp_path, caplog):
    """LLaVA's own rows stay as they are, and one line says that they show no video."""
    text = [{"from": "human", "value": "What is a <video>?"}, {"from": "gpt", "value": "A tag."}]
    rows = [{"id": "text", "conversations": text}, *json.loads(published.read_text())]
    rows[1]["conversations"][0]["value"] = "<image>\nWhat is a <video>?"
    data = write_json(tmp_path / "data.json", rows)
    tower = json.loads((world.base() / "config.json").read_text())["mm_vision_tower"]
    trainer = train(tmp_path / "run", **PLAIN_LLAVA, data_path=data, video_folder=tmp_path, vision_tower=tower)
    assert trainer.train_dataset.list_data_dict == rows
    (line,) = [record.getMessage() for record in caplog.records if "WARNING" in record.getMessage()]
    assert "11 of 13 rows" in line and "--ego2exo True" in line


def test_a_run_without_an_image_processor(flavour, train, tmp_path):
    """The flag is missing; no file is to blame."""
    if flavour == "next":
        pytest.skip("LLaVA-NeXT trains a language model alone without --vision_tower")
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "run", **PLAIN_LLAVA)
    assert "--vision_tower is not given" in error.value.given and "decode" not in error.value.allowed


def test_folders_that_are_not_given_are_the_one_of_the_start(published, train, tmp_path, monkeypatch):
    """LLaVA would join None; a system turn is the row's own system prompt."""
    rows = json.loads(published.read_text())[:2]
    rows[1]["conversations"].insert(0, {"from": "system", "value": "Answer like a cook."})
    monkeypatch.chdir(tmp_path)
    flags = {"data_path": write_json(tmp_path / "two.json", rows), "video_folder": None, "max_steps": 1}
    dataset = train(tmp_path / "run", **flags).train_dataset
    texts = [dataset.tokenizer.decode([i for i in dataset[n]["input_ids"].tolist() if i >= 0]) for n in (0, 1)]
    assert "cook" not in texts[0] and texts[1].count("Answer like a cook.") == 1
