"""Templates tried on samples before any weight loads, and which tokens are an answer's own."""

import json
import shutil
import warnings

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoint.config import read_config
from llava_ego2exo.host.preflight.templates import Rehearsal, Spread, check_lessons, check_version
from llava_ego2exo.host.settings.command_line import Settings
from llava_ego2exo.host.training.answer_tokens import AnswerContent

from ..training.distillation import distilling_samples

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def settings(world):
    def make(kind="llama", given=("version",), **values):
        base = str(world.base(kind))
        values = {"version": world.template(kind), "model_name_or_path": base, "model_max_length": 512, **values}
        return Settings(values, frozenset(given), read_config(base))

    return make


def words(rehearsal, labels):
    return rehearsal.tokenizer.decode(labels[rehearsal.content.own(labels[None])[0]])


def test_an_answers_own_tokens_are_its_words(kinds, settings, world):
    samples = distilling_samples(world)
    for kind in kinds:
        rehearsal = Rehearsal(settings(kind))
        for sample in samples:
            found = words(rehearsal, rehearsal.labels(sample))
            assert "".join(found.split()) == "".join(sample["conversations"][1]["value"].split())


def test_rehearsed_labels_are_those_of_the_run(kinds, settings, train, world, tmp_path):
    for kind in kinds:
        rehearsal = Rehearsal(settings(kind))
        (tmp_path / "d.json").write_text(json.dumps(distilling_samples(world)))
        trainer = train(tmp_path / kind, kind, data_path=tmp_path / "d.json", max_steps=1)
        for item, sample in zip(trainer.train_dataset, distilling_samples(world), strict=True):
            assert torch.equal(item["labels"].long(), rehearsal.labels(sample))


def test_a_role_is_the_templates_only_behind_a_special_token(kinds, settings):
    if "qwen" not in kinds:
        pytest.skip("llava-torch has no template that supervises roles")
    tokenizer = Rehearsal(settings("qwen")).tokenizer
    content = AnswerContent(tokenizer, "<|im_start|>assistant")
    ids = tokenizer("<|im_start|>assistant\nassistant Up.<|im_end|>\n").input_ids
    own = tokenizer.decode(torch.tensor(ids)[content.own(torch.tensor([ids]))[0]])
    assert own.replace(" ", "") == "assistantUp."
    cut = tokenizer("<|im_end|>\n<|im_start|>assistant").input_ids
    assert not content.own(torch.tensor([cut])).any()
    assert content.own(torch.full((2, 3), -100)).sum() == 0 == content.own(torch.zeros(1, 0, dtype=torch.int64)).sum()


def test_templates_that_llava_lacks(settings):
    with pytest.raises(Ego2ExoError, match="--version nope: LLaVA has no such.*Allowed: .*v1.*the one that the base"):
        check_version(settings(version="nope"))
    check_version(settings(given=(), version="v0"))  # llama models come with many


def test_templates_of_a_class_with_one(kinds, settings):
    if "qwen" not in kinds:
        pytest.skip("llava-torch has no class with one template")
    with pytest.raises(Ego2ExoError, match="no --version, and LLaVA's default v0.*give --version qwen_1_5"):
        check_version(settings("qwen", given=(), version="v0"))
    with pytest.warns(UserWarning, match="--version v1: .*trains with qwen_1_5"):
        check_version(settings("qwen", version="v1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in ("qwen_1_5", "qwen_2", "plain"):
            check_version(settings("qwen", version=good))


def test_a_template_by_which_nothing_is_taught(kinds, settings, world):
    samples = distilling_samples(world)
    kind, wrong = ("qwen", "v1") if "qwen" in kinds else ("llama", "mpt")
    wrong = settings(kind, version=wrong)
    with pytest.raises(Ego2ExoError, match="4 of 4 samples looked at teach nothing|cannot write the sample"):
        check_lessons(wrong, Rehearsal(wrong), samples)
    good = settings(kind)
    check_lessons(good, Rehearsal(good), samples)


def test_some_samples_teach_nothing(settings, world):
    samples = distilling_samples(world)
    samples[2]["conversations"][1]["value"] = " "
    with pytest.warns(UserWarning, match="1 of 4 samples looked at teach nothing.*id '2'"):
        check_lessons(settings(), Rehearsal(settings()), samples)


def test_a_run_is_refused_before_weights_load(world, train, monkeypatch, tmp_path):
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(lambda *_a, **_k: pytest.fail("loaded")))
    with pytest.raises(Ego2ExoError, match="--version nope"):
        train(tmp_path / "out", version="nope")
    base = tmp_path / "llama"
    shutil.copytree(world.base(), base)
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(Ego2ExoError, match="no readable tokenizer in"):
        train(tmp_path / "out", model_name_or_path=base)
    assert not (tmp_path / "out").exists()


def test_a_spread_keeps_few_and_reaches_the_end():
    for count in (0, 1, 8, 9, 1000):
        spread = Spread(8)
        for number in range(count):
            spread.add(number)
        assert len(spread.kept) == min(count, 8) or 4 <= len(spread.kept) <= 8 < count
        assert not count or spread.kept[0] == 0 and spread.kept[-1] >= count * 0.75 - 1
