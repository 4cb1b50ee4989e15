"""Samples as the model gets them."""

import math

from tests.videos import QUESTION, sample

from ..conftest import losses
from .distillation import write_json


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
    flags = {"image_folder": tmp_path, "num_train_epochs": 1, "add_time_instruction": True}
    trainer = train(tmp_path / "run", data_path=write_json(tmp_path / "data.json", entries), **flags)
    dataset = trainer.train_dataset
    batch = trainer.data_collator([dataset[i] for i in range(4)])
    assert batch["modalities"] == ["video", "image", "text", "video"] and math.isfinite(losses(trainer)[0])
    item = dataset[0]  # read again
    assert dataset.list_data_dict[0]["conversations"][0]["value"] == f"<image>\n{QUESTION}"
    text, supervised = (
        dataset.tokenizer.decode([i for i in item[name].tolist() if i >= 0]) for name in ("input_ids", "labels")
    )
    assert text.count("The video lasts for 4.00 seconds") == 1 and (item["input_ids"] == -200).sum() == 1
    assert "A red block moves left." in supervised and "What moves" not in supervised
