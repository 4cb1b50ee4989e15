"""Samples as the model gets them."""

import json

import pytest
import torch

from tests.videos import QUESTION, sample


@pytest.fixture
def dataset(world, train, tmp_path):
    """The training data of a run with some flags."""

    def make(samples, **flags):
        data = tmp_path / "data.json"
        data.write_text(json.dumps(samples))
        return train(tmp_path / "run", data_path=data, max_steps=1, **flags).train_dataset

    return make


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_time_instruction_comes_once(epochs, dataset):
    entry = sample("00_red_left.mp4", "A red block moves left.")
    data = dataset([entry], add_time_instruction=True)
    for _ in range(epochs):
        item = data[0]
    assert data.list_data_dict[0]["conversations"][0]["value"] == f"<image>\n{QUESTION}"
    text = data.tokenizer.decode([i for i in item["input_ids"].tolist() if i >= 0])
    assert text.count("The video lasts for 4.00 seconds") == 1
    assert (item["input_ids"] == -200).sum() == 1


def test_only_the_answer_is_supervised(dataset):
    data = dataset([sample("00_red_left.mp4", "A red block moves left.")])
    labels = data[0]["labels"]
    text = data.tokenizer.decode([i for i in labels.tolist() if i >= 0])
    assert "A red block moves left." in text and "What moves" not in text


def test_videos_images_and_text_in_one_batch(world, train, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 28)).save(tmp_path / "a.png")
    turns = sample("", "A wall.")["conversations"]
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    entries = [
        sample("00_red_left.mp4", "A red block moves left."),
        {"id": 1, "image": "a.png", "conversations": turns},
        {"id": 2, "conversations": text},
        sample("01_green_right.mp4", "A green block."),
    ]
    (tmp_path / "d.json").write_text(json.dumps(entries))
    trainer = train(tmp_path / "run", data_path=tmp_path / "d.json", image_folder=tmp_path, num_train_epochs=1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert batch["modalities"] == ["video", "image", "text", "video"]
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))
