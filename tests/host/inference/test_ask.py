"""`llava-ego2exo ask`: texts, probabilities and the picture of one student's attention, and what is refused."""

import json

import numpy as np
import pytest
import torch

from llava_ego2exo import ask, cli
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference.answerer import Answerer, load
from llava_ego2exo.host.inference.ask import VideoModel
from llava_ego2exo.host.inference.option_scoring import option_scores
from llava_ego2exo.host.inference.settings import InferenceSettings
from llava_ego2exo.video import read_video
from tests.videos import QUESTION

from .asking import error_of

OTHER, COLOURS = "What is it?", ["red", "green", "blue"]


@pytest.fixture
def asked(world, student, capsys):
    """`asked(*words)`: what the command prints about one video, with the flags that every call needs."""
    trained, template = student(), world.template("llama")
    video = world.videos / "00_red_left.mp4"
    common = ["--base", str(trained.base), "--template", template, "--frames-upbound", "4"]

    def run(*words):
        capsys.readouterr()  # what training and loading printed
        assert cli.main(["ask", str(trained.folder), str(video), *words, *common]) == 0
        return capsys.readouterr().out

    run.loaded = load(str(trained.folder), str(trained.base))
    run.other = sorted(world.videos.glob("*.mp4"))[1]
    run.video, run.template, run.student = video, template, trained
    return run


def test_several_questions_are_answered_as_each_alone(asked):
    flags = {"template": asked.template, "frames_upbound": 4}
    alone = [ask(asked.loaded, asked.video, text, **flags) for text in (QUESTION, OTHER)]
    assert ask(asked.loaded, asked.video, [QUESTION, OTHER], **flags) == alone
    assert alone[0] == "A red block moves left."
    assert asked(QUESTION) == f"{alone[0]}\n"
    found = json.loads(asked(QUESTION, OTHER, "--json"))
    assert [one["question"] for one in found["answers"]] == [QUESTION, OTHER]
    assert [one["answer"] for one in found["answers"]] == alone and found["frames"] == 4


def test_probabilities_are_shares_of_the_likelihoods(asked):
    tokenizer, model, *_ = asked.loaded
    pixels = Answerer(asked.loaded, asked.template).preprocess(read_video(str(asked.video), frames_upbound=4).frames)
    texts = [f"A {colour} block moves left." for colour in COLOURS]
    (scores,) = option_scores(model, tokenizer, [pixels], [QUESTION], [texts], asked.template)
    expected = dict(zip(texts, torch.tensor(scores).softmax(0).tolist(), strict=True))
    (found,) = json.loads(asked(QUESTION, "--json", "--options", *texts))["answers"]
    assert found["answer"] == texts[0] and found["probabilities"] == pytest.approx(expected, abs=1e-4)
    called = ask(asked.loaded, asked.video, QUESTION, choices=texts, template=asked.template, frames_upbound=4)
    assert called == pytest.approx(expected, abs=1e-4)
    assert asked(QUESTION, "--options", *texts).splitlines()[0].endswith(texts[0])


def test_one_encoding_serves_both_kinds_of_question(asked):
    settings = InferenceSettings(asked.template, frames_upbound=4, max_new_tokens=24)
    model = VideoModel(Answerer(asked.loaded, asked.template, 24), settings)
    encoder, runs = asked.loaded[1].get_vision_tower().vision_tower.vision_model.encoder, []
    encoder.register_forward_hook(lambda *_: runs.append(1))
    clips = [model.prepare(read_video(str(video), frames_upbound=4)) for video in (asked.video, asked.other)]
    options = [(QUESTION, [f"A {colour} block moves left." for colour in COLOURS])]
    alone = [(model.probabilities(clip, options), model.answers(clip, [QUESTION])[0].text) for clip in clips]
    assert len(runs) == 4
    with model.one_encoding():
        together = [(model.probabilities(clip, options), model.answers(clip, [QUESTION])[0].text) for clip in clips]
    assert together == alone and alone[0] != alone[1] and len(runs) == 6


def test_the_picture_shows_every_frame(asked, tmp_path):
    from PIL import Image

    asked(QUESTION, "--attention", str(tmp_path / "seen.png"))
    picture = np.asarray(Image.open(tmp_path / "seen.png"))
    assert picture.shape[1] == 4 * 224 and picture.std() > 10


def test_wrong_input_is_refused_before_weights_load(asked, no_weights, tmp_path, capsys):
    folder, base, video = str(asked.student.folder), str(asked.student.base), str(asked.video)
    for words, message in (
        ([folder, video, "?", "--base", base, "--options", "one"], "--options one"),
        ([folder, video, "?", "--base", base, "--options", "a", "a"], "--options a, a"),
        ([folder, video, "?", "--base", base, "--attention", str(tmp_path / "no" / "a.png")], "--attention"),
        ([folder, video, "?", "--base", base, "--attention", str(tmp_path / "a.jpg")], "--attention"),
        ([folder, video, "?"], "--base"),
        ([str(tmp_path / "none"), video, "?"], "none"),
        ([folder, str(tmp_path / "none.mp4"), "?", "--base", base, "--template", "v1"], "none.mp4"),
        ([folder, video, "?", "--base", base, "--template", "v1", "--start", "5", "--end", "1"], "5"),
        ([folder, video, "?", "--base", base, "--template", "v1", "--max-new-tokens", "0"], "--max-new-tokens 0"),
    ):
        assert cli.main(["ask", *words]) == 1
        error = error_of(capsys)
        assert message in error and "model-base" not in error, error
    assert cli.main(["ask", base, video, "?", "--attention", str(tmp_path / "a.png")]) == 1
    assert "no ego tokens" in error_of(capsys)
    with pytest.raises(Ego2ExoError, match="choices"):
        ask(folder, video, "?", base, choices=["one"])
