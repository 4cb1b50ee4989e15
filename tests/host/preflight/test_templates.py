"""Conversation templates, tried on samples before any weight loads, and which tokens are an answer's own text."""

import json
import warnings

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoint.config import read_config
from llava_ego2exo.host.model.answer_tokens import AnswerContent
from llava_ego2exo.host.preflight.templates import PreprocessPreview, check_supervision, check_version
from llava_ego2exo.host.settings import Settings

from ..training.distillation import distilling_samples

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def settings(world):
    def make(kind="llama", given=("version",), **values):
        base = str(world.base(kind))
        values = {"version": world.template(kind), "model_name_or_path": base, "model_max_length": 512, **values}
        return Settings(values, frozenset(given), read_config(base))

    return make


def test_previewed_labels_are_those_of_the_run_and_the_answers_words(kinds, settings, train, world, tmp_path):
    samples = distilling_samples(world)
    (tmp_path / "d.json").write_text(json.dumps(samples))
    for kind in kinds:
        preview = PreprocessPreview(settings(kind))
        trainer = train(tmp_path / kind, kind, data_path=tmp_path / "d.json", max_steps=1)
        for item, sample in zip(trainer.train_dataset, samples, strict=True):
            labels = preview.labels(sample)
            assert torch.equal(item["labels"].long(), labels)
            found = preview.tokenizer.decode(labels[preview.content.own(labels[None])[0]])
            assert "".join(found.split()) == "".join(sample["conversations"][1]["value"].split())


def test_a_role_is_the_templates_only_behind_a_special_token(kinds, settings):
    if "qwen" not in kinds:
        pytest.skip("llava-torch has no template that supervises roles")
    tokenizer = PreprocessPreview(settings("qwen")).tokenizer
    content = AnswerContent(tokenizer, "<|im_start|>assistant")
    ids = tokenizer("<|im_start|>assistant\nassistant Up.<|im_end|>\n").input_ids
    own = tokenizer.decode(torch.tensor(ids)[content.own(torch.tensor([ids]))[0]])
    assert own.replace(" ", "") == "assistantUp."
    cut = tokenizer("<|im_end|>\n<|im_start|>assistant").input_ids
    assert not content.own(torch.tensor([cut])).any()
    assert content.own(torch.full((2, 3), -100)).sum() == 0 == content.own(torch.zeros(1, 0, dtype=torch.int64)).sum()


def test_templates_of_a_class_with_one(kinds, settings):
    if "qwen" not in kinds:
        pytest.skip("llava-torch has no class with one template")
    with pytest.raises(Ego2ExoError) as error:
        check_version(settings("qwen", given=(), version="v0"))
    assert "v0" in error.value.given and "--version qwen_1_5" in error.value.remedy
    with pytest.warns(UserWarning, match="--version v1: .*trains with qwen_1_5"):
        check_version(settings("qwen", version="v1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in ("qwen_1_5", "qwen_2", "plain"):
            check_version(settings("qwen", version=good))


def test_a_template_that_leaves_nothing_to_train_on(kinds, settings, world):
    samples = distilling_samples(world)
    kind, wrong = ("qwen", "v1") if "qwen" in kinds else ("llama", "mpt")
    wrong = settings(kind, version=wrong)
    with pytest.raises(Ego2ExoError) as error:
        check_supervision(wrong, PreprocessPreview(wrong), samples)
    assert f"--version {wrong['version']}" in error.value.given and "--version" in error.value.remedy
    good = settings(kind)
    check_supervision(good, PreprocessPreview(good), samples)
    samples[2]["conversations"][1]["value"] = " "
    with pytest.warns(UserWarning, match="1 of 4 samples.*id '2'"):
        check_supervision(good, PreprocessPreview(good), samples)
