"""The placeholder of a distillation sample stays before or behind the query; other samples train as LLaVA has them."""

import json

import pytest

import llava_ego2exo
from tests.videos import QUESTION, sample

VIDEO, ANSWER = "00_red_left.mp4", "A red block moves left."
BEFORE, BEHIND = f"<image>\n{QUESTION}", f"{QUESTION}\n<image>"


def entry(value, **further):
    made = sample(VIDEO, ANSWER)
    made["conversations"][0]["value"] = value
    return {**made, **further}


@pytest.fixture
def rows(world, train, tmp_path):
    """Token ids of samples as a run gets them, each row as (place of the video, ids)."""

    def make(samples, **flags):
        data = tmp_path / "data.json"
        data.write_text(json.dumps(samples))
        dataset = train(tmp_path / "run", data_path=data, max_steps=1, **flags).train_dataset
        ids = [dataset[i]["input_ids"].tolist() for i in range(len(samples))]
        assert all(row.count(-200) == 1 for row in ids)
        texts = [[dataset.tokenizer.decode(part) for part in split(row)] for row in ids]
        return ids, texts

    return make


def split(row):
    place = row.index(-200)
    return row[:place], row[place + 1 :]


def test_only_distillation_samples_keep_the_place(rows):
    ego = {"ego_video": VIDEO}
    ids, texts = rows([entry(BEFORE, **ego), entry(BEHIND, **ego), entry(BEFORE), entry(BEHIND)])
    assert QUESTION in texts[0][1] and QUESTION not in texts[0][0]
    assert QUESTION in texts[1][0] and QUESTION not in texts[1][1]
    assert all(ANSWER in behind for _, behind in texts)
    assert ids[2] == ids[3]  # left to LLaVA


def test_the_fix_can_be_switched_off(rows, monkeypatch):
    llava_ego2exo.unregister()
    monkeypatch.setenv("LLAVA_EGO2EXO_FIXES", "all,-placement")
    llava_ego2exo.register()
    ids, _ = rows([entry(BEFORE, ego_video=VIDEO), entry(BEHIND, ego_video=VIDEO)])
    assert ids[0] == ids[1]
