"""Each wrong use of the distillation flags: one Ego2ExoError before any weight loads, all offenders at once."""

import json
import shutil

import numpy as np
import pytest

from llava_ego2exo.config import DistillConfig
from llava_ego2exo.errors import Ego2ExoError

from .distillation import ANSWERS, distilling_samples, key_of, write_json, write_logits

KL = {"ego2exo_kd_weight": 1.0}


@pytest.fixture
def refused(world, train, monkeypatch, tmp_path):
    """Expect a run to be refused with a message, before any weight loads and without an output folder."""
    from transformers import PreTrainedModel

    def load(cls, *args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load))
    default = write_json(tmp_path / "pairs.json", distilling_samples(world))

    def check(message, samples=None, **flags):
        data = default if samples is None else write_json(tmp_path / "given.json", samples)
        with pytest.raises(Ego2ExoError, match=f"(?s){message}"):
            train(tmp_path / "out", **{"data_path": data, **KL, **flags})
        assert not (tmp_path / "out").exists()

    return check


FLAGS = {
    "negative": ({"ego2exo_kd_weight": -0.5}, "--ego2exo_kd_weight -0.5.*a number 0 or more"),
    "not finite": ({"ego2exo_kd_weight": "nan"}, "--ego2exo_kd_weight nan"),
    "cold": ({"ego2exo_kd_temperature": 0}, "--ego2exo_kd_temperature 0.*above 0"),
    "empty": ({"ego2exo_teacher": " "}, "--ego2exo_teacher.*self, cached, or a checkpoint"),
    "off": (
        {"ego2exo_kd_weight": 0, "ego2exo_kd_temperature": 2, "ego2exo_teacher": "self"},
        "--ego2exo_kd_temperature, --ego2exo_teacher with --ego2exo_kd_weight 0",
    ),
    "no tokens": ({"ego2exo": None, "ego2exo_num_tokens": None}, "--ego2exo_kd_weight without --ego2exo True"),
    "no lora": ({"lora_enable": False}, "teacher self without LoRA.*--lora_enable True"),
    "biases": ({"lora_bias": "all"}, "teacher self with --lora_bias all"),
    "another trainer": ({"trainer_type": "magic"}, "--trainer_type 'magic'"),
    "smoothing": ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor 0.1 with --ego2exo_kd_weight"),
    "no answers": ({"ego2exo_teacher": "cached"}, "teacher cached without --ego2exo_answers"),
    "no folder": ({"ego2exo_teacher": "cached", "ego2exo_answers": "/nowhere"}, "/nowhere is no folder.*teach --top-k"),
    "answers alone": ({"ego2exo_answers": "/nowhere"}, "--ego2exo_answers /nowhere with --ego2exo_teacher self"),
    "base alone": ({"ego2exo_teacher_base": "/nowhere"}, "teacher_base /nowhere with --ego2exo_teacher self"),
    "no teacher": ({"ego2exo_teacher": "/nowhere/t"}, "teacher /nowhere/t: no readable config.json"),
    "sharded": ({"fsdp": "full_shard"}, "--fsdp full_shard with.*whole weights"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_wrong_flags(name, refused):
    flags, message = FLAGS[name]
    refused(message, **flags)


def test_a_trainer_without_kl(refused):
    from llava_ego2exo.registry import TRAINERS

    TRAINERS.add("other", lambda llava_trainer: llava_trainer)
    try:
        refused("--trainer_type other with --ego2exo_kd_weight above 0", trainer_type="other")
    finally:
        TRAINERS.remove("other")


def test_a_tuned_tower(flavour, refused):
    if flavour == "next":
        parts = "mm_vision_tower,mm_mlp_adapter,mm_language_model"
        refused("self with --mm_tunable_parts mm_vision_tower", mm_tunable_parts=parts)
        refused("self with --unfreeze_mm_vision_tower True", unfreeze_mm_vision_tower=True)
    else:
        refused("self with --mm_use_im_start_end True", mm_use_im_start_end=True, tune_mm_mlp_adapter=True)


def test_stage_three(refused, tmp_path):
    (tmp_path / "zero3.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    from llava_ego2exo.host.preflight.sharding import zero_stage

    assert zero_stage(tmp_path / "zero3.json") == 3 and zero_stage(None) == 0 == zero_stage("/nowhere")


@pytest.fixture
def copy_of_base(world, tmp_path):
    """The base with changes to its config and tokenizer."""

    def copy(config=(), added=()):
        from llava_ego2exo.host.checkpoint.tokenizers import read_tokenizer

        folder = tmp_path / "teacher_llama"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(world.base(), folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **dict(config)}))
        if added:
            tokenizer = read_tokenizer(str(folder))
            tokenizer.add_tokens(list(added))
            tokenizer.save_pretrained(folder)
        return folder

    return copy


def test_teachers_that_do_not_fit(copy_of_base, refused, tmp_path):
    refused(
        "student's vocabulary has .* tokens, the teacher's 7.*sequence distillation.*kd_weight 0",
        ego2exo_teacher=copy_of_base({"vocab_size": 7}),
    )
    refused(
        r"tokenizers of .* differ in 2 token\(s\): \['<a>', '<b>'\]", ego2exo_teacher=copy_of_base(added=["<a>", "<b>"])
    )
    refused("is a 'bert'.*a LLaVA checkpoint.*What to do", ego2exo_teacher=copy_of_base({"model_type": "bert"}))
    refused("teacher_llama/nothing: no readable config.json", ego2exo_teacher=tmp_path / "teacher_llama" / "nothing")
    adapter = copy_of_base()
    (adapter / "adapter_config.json").write_text("{}")
    refused("holds a LoRA adapter without its base", ego2exo_teacher=adapter)


def test_a_base_whose_head_is_no_module(copy_of_base, refused):
    refused("pretraining_tp 2 in the base's config.json with", model_name_or_path=copy_of_base({"pretraining_tp": 2}))


def test_samples_without_an_ego_clip_are_all_named(world, refused):
    samples = distilling_samples(world)
    for index in (1, 3):
        del samples[index]["ego_video"]
    samples[0]["ego_video"] = "gone.mp4"
    found = r"3 fault.*given.json\[0\]: ego_video .*gone.mp4 is not there.*given.json\[1\]: has no ego_video"
    refused(found + r".*given.json\[3\]: has no ego_video", samples)
    refused('for the KL "ego_video", or "replay": true.*--video_folder.*llava-ego2exo targets.*kd_weight 0', samples)


def test_odd_samples(world, refused):
    first, second, third, fourth = distilling_samples(world)
    image = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    refused("replay, which is true or false", [{**first, "replay": "no"}])
    refused("needs one video and one ego_video", [first, {**second, "ego_video": ["a.mp4"]}])
    refused("every sample of .* is a replayed one", [{**first, "replay": True}])
    text = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi."}]
    refused(r"given.json\[1\]: has no ego_video", [first, {"conversations": text}])
    refused("has 0 <image>", [image])


@pytest.fixture
def stored(world, tmp_path):
    """Samples with stored logits of their answers."""
    from llava_ego2exo.host.checkpoint.tokenizers import read_tokenizer

    tokenizer, folder = read_tokenizer(str(world.base())), tmp_path / "answers"
    samples = distilling_samples(world)
    for sample, answer in zip(samples, ANSWERS, strict=True):
        tokens = tokenizer(f" {answer}", add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        logits = np.sort(np.random.default_rng(0).normal(size=(len(tokens), 3)), axis=1)[:, ::-1]
        write_logits(folder, key_of(answer), tokens, np.tile(np.arange(3), (len(tokens), 1)), logits.astype(np.float16))
        sample["answer_keys"] = [key_of(answer)]
    return folder, samples


def test_stored_logits_that_do_not_fit(stored, refused):
    folder, samples = stored
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": folder}
    gone = key_of("gone")
    faulty = [
        {key: value for key, value in samples[0].items() if key != "answer_keys"},
        {**samples[1], "answer_keys": []},
        {**samples[2], "answer_keys": [gone]},
        {**samples[3], "answer_keys": ["../../etc/passwd"]},
        {**samples[3], "answer_keys": samples[2]["answer_keys"]},
    ]
    refused('for the KL "answer_keys".*targets. from .*teach --top-k', faulty, **cached)
    message = r"5 fault.*\[0\]: has no answer_keys.*\[1\]: has 0 answer_keys for 1 answer.*\[2\]: no top-k logits .*"
    refused(message + rf"{gone}.npz.*\[3\]: has '../../etc/passwd'.*\[4\]: .*another text", faulty, **cached)
    write_logits(folder, gone, [1, 2], [[1], [2], [3]], [[0.0], [0.0], [0.0]])
    refused("have shapes tokens", [{**samples[0], "answer_keys": [gone]}], **cached)
    write_logits(folder, gone, [1, 2], [[1], [99999]], [[0.0], [0.0]])
    refused("speaks of token 99999", [{**samples[0], "answer_keys": [gone]}], **cached)
    (folder / "top_k" / gone[:2] / f"{gone}.npz").write_bytes(b"no archive")
    refused("is damaged", [{**samples[0], "answer_keys": [gone]}], **cached)
    arrays = dict(np.load(folder / "top_k" / key_of(ANSWERS[1])[:2] / f"{key_of(ANSWERS[1])}.npz"))
    write_logits(folder, key_of(ANSWERS[1]), arrays["tokens"], arrays["ids"][:, :2], arrays["logits"][:, :2])
    refused(r"another k than those before it: \[2, 3\]", samples, **cached)
    shutil.rmtree(folder / "top_k")
    refused("holds no top_k folder", samples, **cached)


def test_answers_that_the_student_reads_as_other_tokens(stored, world, refused, capsys):
    from llava_ego2exo.host.checkpoint.tokenizers import read_tokenizer

    folder, samples = stored
    tokenizer = read_tokenizer(str(world.base()))
    samples = samples[:3]  # the last answer may be single letters to the tokenizer too
    for number, answer in enumerate(ANSWERS[:3]):
        letters = [tokenizer(letter, add_special_tokens=False).input_ids for letter in answer.replace(" ", "")]
        tokens = [token for part in letters for token in part] + [tokenizer.eos_token_id]
        shape = (len(tokens), 3)
        if number:
            write_logits(folder, key_of(answer), tokens, np.zeros(shape, int), np.zeros(shape, np.float16))
    cached = {"ego2exo_teacher": "cached", "ego2exo_answers": folder}
    with pytest.raises(AssertionError, match="weights were loaded"):
        refused("", samples, **cached)
    assert "ego2exo: KL found for 1 of 3 answers looked at" in capsys.readouterr().out
    refused("KL found for 0 of 2 answers looked at.*other tokens.*--ego2exo_kd_weight 0", samples[1:], **cached)


def test_values_are_checked_by_the_dataclass_alone():
    assert DistillConfig() == DistillConfig.from_object(object()) and not DistillConfig().on
    assert DistillConfig(kd_weight=1, teacher="x/y", teacher_base="z").kind == "path"
    for wrong in ({"kd_weight": True}, {"kd_weight": float("inf")}, {"kd_temperature": -1}, {"teacher": None}):
        with pytest.raises(Ego2ExoError, match="--ego2exo_"):
            DistillConfig(**wrong)
