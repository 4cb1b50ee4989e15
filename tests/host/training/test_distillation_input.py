"""Each wrong use of the distillation flags: one Ego2ExoError before any weight loads, all offenders at once."""

import json
import shutil

import numpy as np
import pytest

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.checkpoint.config import read_tokenizer
from llava_ego2exo.registry import TRAINERS

from .distillation import ANSWERS, distilling_samples, key_of, write_json, write_logits

KL = {"ego2exo_kd_weight": 1.0}


@pytest.fixture
def refused(world, train, no_weights, tmp_path):
    """Expect a run to be refused with some words, before any weight loads and without an output folder."""
    default = write_json(tmp_path / "pairs.json", distilling_samples(world))

    def check(words, samples=None, **flags):
        data = default if samples is None else write_json(tmp_path / "given.json", samples)
        with pytest.raises(Ego2ExoError) as caught:
            train(tmp_path / "out", **{"data_path": data, **KL, **flags})
        for word in [words] if isinstance(words, str) else words:
            assert word in caught.value.given
        assert not (tmp_path / "out").exists()

    return check


CACHED = {"ego2exo_teacher": "cached"}
FLAGS = [
    ("--ego2exo_kd_weight -0.5", {"ego2exo_kd_weight": -0.5}),
    ("with --ego2exo_kd_weight 0", {"ego2exo_kd_weight": 0, "ego2exo_kd_temperature": 2, "ego2exo_teacher": "self"}),
    ("--ego2exo_divergence backward", {"ego2exo_divergence": "backward"}),
    ("--ego2exo_jsd_beta 1.0", {"ego2exo_divergence": "jsd", "ego2exo_jsd_beta": 1.0}),
    ("--ego2exo_divergence forward", {"ego2exo_jsd_beta": 0.3}),
    ("of which k tokens are known", {**CACHED, "ego2exo_answers": "/nowhere", "ego2exo_divergence": "reverse"}),
    ("with --ego2exo_kd_weight 0", {"ego2exo_kd_weight": 0, "ego2exo_divergence": "reverse"}),
    ("--ego2exo_on_policy 1.5", {"ego2exo_on_policy": 1.5}),
    ("--ego2exo_on_policy -0.5", {"ego2exo_on_policy": -0.5}),
    ("with --ego2exo_teacher cached", {**CACHED, "ego2exo_answers": "/nowhere", "ego2exo_on_policy": 0.5}),
    ("with --ego2exo_teacher cached", {**CACHED, "ego2exo_answers": "/nowhere", "ego2exo_privilege_filter": 1.0}),
    ("--ego2exo_sample_tokens 0", {"ego2exo_on_policy": 0.5, "ego2exo_sample_tokens": 0}),
    ("--ego2exo_sample_temperature 0", {"ego2exo_on_policy": 0.5, "ego2exo_sample_temperature": 0}),
    ("--ego2exo_sample_tokens 1024 with --model_max_length", {"ego2exo_on_policy": 0.5, "ego2exo_sample_tokens": 1024}),
    ("--ego2exo_sample_tokens with", {"ego2exo_sample_tokens": 8}),
    ("which is at most 0.693", {"ego2exo_divergence": "jsd", "ego2exo_privilege_filter": 0.7}),
    ("--ego2exo_privilege_cap 0", {"ego2exo_privilege_cap": 0}),
    ("with --ego2exo_kd_weight 0", {"ego2exo_kd_weight": 0, "ego2exo_on_policy": 0.5}),
    ("without --ego2exo True", {"ego2exo": None, "ego2exo_num_tokens": None}),
    ("without LoRA", {"lora_enable": False}),
    ("--lora_bias all", {"lora_bias": "all"}),
    ("--trainer_type other", {"trainer_type": "other"}),
    ("--label_smoothing_factor 0.1", {"label_smoothing_factor": 0.1}),
    ("without --ego2exo_answers", CACHED),
    ("/nowhere", {**CACHED, "ego2exo_answers": "/nowhere"}),
    ("teacher_base /nowhere", {"ego2exo_teacher_base": "/nowhere"}),
    ("no readable config.json", {"ego2exo_teacher": "/nowhere/t"}),
    ("--fsdp full_shard", {"fsdp": "full_shard"}),
]


def test_wrong_flags(flavour, refused):
    TRAINERS.add("other", lambda llava_trainer: llava_trainer)
    try:
        for words, flags in FLAGS:
            refused(words, **flags)
    finally:
        TRAINERS.remove("other")
    if flavour == "next":
        refused("--mm_tunable_parts", mm_tunable_parts="mm_vision_tower,mm_mlp_adapter,mm_language_model")
    else:
        refused("--mm_use_im_start_end True", mm_use_im_start_end=True, tune_mm_mlp_adapter=True)


@pytest.fixture
def copy_of_base(world, tmp_path):
    """The base with changes to its config and tokenizer."""

    def copy(config=(), added=()):
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


def test_teachers_that_do_not_fit(copy_of_base, refused):
    refused("the teacher's 7", ego2exo_teacher=copy_of_base({"vocab_size": 7}))
    refused(("differ in 2 token", "'<a>', '<b>'"), ego2exo_teacher=copy_of_base(added=["<a>", "<b>"]))
    refused("'bert'", ego2exo_teacher=copy_of_base({"model_type": "bert"}))
    refused("pretraining_tp 2", model_name_or_path=copy_of_base({"pretraining_tp": 2}))
    adapter = copy_of_base()
    (adapter / "adapter_config.json").write_text("{}")
    refused("without its base", ego2exo_teacher=adapter)


def test_odd_samples_are_all_named(world, refused):
    samples = distilling_samples(world)
    for index in (1, 3):
        del samples[index]["ego_video"]
    samples[0]["ego_video"] = "gone.mp4"
    refused(("3 fault", "[0]: ego_video", "gone.mp4", "[1]: has no ego_video", "[3]: has no ego_video"), samples)
    first, second, *_ = distilling_samples(world)
    image = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    refused("replay", [{**first, "replay": "no"}])
    refused("a list as ego_video", [first, {**second, "ego_video": ["a.mp4"]}])
    refused("replayed", [{**first, "replay": True}])
    refused("0 <image>", [image])


@pytest.fixture
def stored(world, tmp_path):
    """Samples with stored logits of their answers."""
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
    cached = {**CACHED, "ego2exo_answers": folder}
    gone = key_of("gone")
    faulty = [
        {key: value for key, value in samples[0].items() if key != "answer_keys"},
        {**samples[1], "answer_keys": []},
        {**samples[2], "answer_keys": [gone]},
        {**samples[3], "answer_keys": ["../../etc/passwd"]},
        {**samples[3], "answer_keys": samples[2]["answer_keys"]},
    ]
    found = ("5 fault", "[0]: has no answer_keys", "[1]: has 0 answer_keys", f"{gone}.npz", "'../../etc/passwd'", "[4]")
    refused(found, faulty, **cached)
    write_logits(folder, gone, [1, 2], [[1], [2], [3]], [[0.0], [0.0], [0.0]])
    refused("have shapes tokens", [{**samples[0], "answer_keys": [gone]}], **cached)
    write_logits(folder, gone, [1, 2], [[1], [99999]], [[0.0], [0.0]])
    refused("token 99999", [{**samples[0], "answer_keys": [gone]}], **cached)
    (folder / "top_k" / gone[:2] / f"{gone}.npz").write_bytes(b"no archive")
    refused("is damaged", [{**samples[0], "answer_keys": [gone]}], **cached)
    arrays = dict(np.load(folder / "top_k" / key_of(ANSWERS[1])[:2] / f"{key_of(ANSWERS[1])}.npz"))
    write_logits(folder, key_of(ANSWERS[1]), arrays["tokens"], arrays["ids"][:, :2], arrays["logits"][:, :2])
    refused("[2, 3]", samples, **cached)


def test_answers_that_the_student_reads_as_other_tokens(stored, world, refused, capsys):
    folder, samples = stored
    tokenizer = read_tokenizer(str(world.base()))
    for answer in ANSWERS[1:3]:  # spelled by single letters
        letters = [tokenizer(letter, add_special_tokens=False).input_ids for letter in answer.replace(" ", "")]
        tokens = [token for part in letters for token in part] + [tokenizer.eos_token_id]
        shape = (len(tokens), 3)
        write_logits(folder, key_of(answer), tokens, np.zeros(shape, int), np.zeros(shape, np.float16))
    cached = {**CACHED, "ego2exo_answers": folder}
    with pytest.raises(AssertionError, match="weights were loaded"):
        refused("", samples[:3], **cached)
    assert "stored logits match 1 of 3 sampled" in capsys.readouterr().out
    refused("stored logits match 0 of 2 sampled", samples[1:3], **cached)
