"""Samples as the model gets them."""

import json
import math

from tests.videos import QUESTION, sample

from ..conftest import losses


def write(folder, samples):
    (folder / "data.json").write_text(json.dumps(samples))
    return folder / "data.json"


def test_the_time_instruction_comes_once_and_only_the_answer_is_supervised(train, tmp_path):
    data = write(tmp_path, [sample("00_red_left.mp4", "A red block moves left.")])
    dataset = train(tmp_path / "run", data_path=data, max_steps=1, add_time_instruction=True).train_dataset
    for _ in range(3):
        item = dataset[0]
    assert dataset.list_data_dict[0]["conversations"][0]["value"] == f"<image>\n{QUESTION}"
    text, supervised = (
        dataset.tokenizer.decode([i for i in item[name].tolist() if i >= 0]) for name in ("input_ids", "labels")
    )
    assert text.count("The video lasts for 4.00 seconds") == 1 and (item["input_ids"] == -200).sum() == 1
    assert "A red block moves left." in supervised and "What moves" not in supervised


def test_videos_images_and_text_in_one_batch(train, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 28)).save(tmp_path / "a.png")
    text = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hello."}]
    entries = [
        sample("00_red_left.mp4", "A red block moves left."),
        {"id": 1, "image": "a.png", "conversations": sample("", "A wall.")["conversations"]},
        {"id": 2, "conversations": text},
        sample("01_green_right.mp4", "A green block."),
    ]
    trainer = train(tmp_path / "run", data_path=write(tmp_path, entries), image_folder=tmp_path, num_train_epochs=1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert batch["modalities"] == ["video", "image", "text", "video"] and math.isfinite(losses(trainer)[0])
