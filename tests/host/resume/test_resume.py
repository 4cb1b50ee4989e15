"""`checkpoint-N`: whole, resumable, loadable."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from llava_ego2exo.errors import Ego2ExoError

from ..training.distillation import distilling_samples, key_of, write_json, write_logits

SAVING = {"save_strategy": "steps", "save_steps": 3}
KL = {"ego2exo_kd_weight": 0.7, "lora_dropout": 0.05}
# Five samples: a global batch of two small ones reaches over the end of an epoch, and some steps log for two.
FIVE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 4, "count": 5}
WAYS = {
    "lora": ({"logging_steps": 2}, 3),
    "projector, another teacher": (
        {"lora_enable": False, "tune_mm_mlp_adapter": True, **KL, "ego2exo_teacher": "base"},
        3,
    ),
    "full": ({"lora_enable": False}, 3),
    "quantized, a teacher of its own": ({"bits": 4, "bf16": True, **KL}, 3),
    "accumulating, stored answers": ({**FIVE, **KL, "ego2exo_teacher": "cached"}, 6),
    "saved with each epoch": ({**FIVE, "save_strategy": "epoch", "save_steps": None}, 5),
    "grouped by length, workers": ({"group_by_modality_length": True, "texts": 3, "dataloader_num_workers": 2}, 3),
}


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


def logged(trainer):
    """All that was logged but the time it took."""
    return [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in trainer.state.log_history
    ]


def material(world, folder, flags):
    """A training file of clips and, where asked for, texts; a teacher's path and stored answers where they are."""
    samples = distilling_samples(world, flags.pop("count", 4))
    for number in range(flags.pop("texts", 0)):
        turns = [{"from": "human", "value": "Say " + "more " * number}, {"from": "gpt", "value": "More."}]
        samples.append({"id": f"t{number}", "conversations": turns})
    if flags.get("ego2exo_teacher") == "base":
        flags["ego2exo_teacher"] = world.base()
    if flags.get("ego2exo_teacher") == "cached":
        flags["ego2exo_answers"] = folder / "answers"
        tokenizer = AutoTokenizer.from_pretrained(world.base())
        for sample in samples:
            sample["answer_keys"] = [key_of(sample["id"])]
            tokens = tokenizer(sample["conversations"][1]["value"], add_special_tokens=False).input_ids
            logits = np.random.default_rng(len(tokens)).normal(size=(len(tokens), 3)).astype(np.float32)
            ids = np.zeros((len(tokens), 3), int) + range(3)
            write_logits(folder / "answers", key_of(sample["id"]), tokens, ids, logits)
    return {**flags, "data_path": write_json(folder / "train.json", samples)}


@pytest.mark.fault
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_run(way, world, train, tmp_path, fault_table):
    given, step = WAYS[way]
    flags = {"num_train_epochs": 4, "per_device_train_batch_size": 2, **SAVING, **given}
    flags = material(world, tmp_path, flags)
    whole = train(tmp_path / "whole", **flags)
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "cut" / f"checkpoint-{step}")
    resumed = train(tmp_path / "cut", **flags)
    assert logged(resumed) == logged(whole)
    kept = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, kept[name]), name
    fault_table("run resumed in the middle of an epoch: the same weights to the last bit, the same logs", 1, 1)


def test_a_checkpoint_loads_with_the_standard_loader(world, train, tmp_path):
    trainer = train(tmp_path / "s", num_train_epochs=2, save_strategy="steps", save_steps=2, max_steps=2)
    from llava.model.builder import load_pretrained_model

    model = load_pretrained_model(str(tmp_path / "s" / "checkpoint-2"), str(world.base()), "x", torch_dtype="float32")[
        1
    ]
    state = model.state_dict()
    for name, value in weights(trainer).items():
        if "lora_" not in name:
            assert torch.equal(state[name.removeprefix("base_model.model.")], value), name


def test_other_flags_do_not_resume(train, tmp_path):
    flags = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train(tmp_path / "s", **flags)
    with pytest.raises(Ego2ExoError, match="checkpoint-1 would be resumed.*ego2exo_num_tokens: 4 / 5"):
        train(tmp_path / "s", **flags, ego2exo_num_tokens=5)


def test_a_checkpoint_without_our_weights_does_not_resume_silently(train, tmp_path):
    flags = {"save_strategy": "steps", "save_steps": 1}
    train(tmp_path / "s", **flags, max_steps=1)
    (tmp_path / "s" / "checkpoint-1" / "non_lora_trainables.bin").unlink()
    with pytest.raises(Ego2ExoError, match="cannot be resumed: it has no non_lora_trainables.bin"):
        train(tmp_path / "s", **flags, max_steps=2)


def test_training_goes_on_from_an_ego_checkpoint(world, train, tmp_path):
    """Without any ego flag the tokens, their settings and LLaVA's own ones are inherited."""
    train(tmp_path / "a", num_train_epochs=1, lora_enable=False, ego2exo_layers="0,2", ego2exo_key_embedding="frame")
    (tmp_path / "a").rename(tmp_path / "a_llama")
    on = {
        "model_name_or_path": tmp_path / "a_llama",
        "ego2exo": None,
        "ego2exo_num_tokens": None,
        "learning_rate": 1e-12,
    }
    trainer = train(tmp_path / "b", num_train_epochs=1, mm_projector_lr=1e-12, **on)
    config = trainer.model.config
    assert config.ego2exo and config.ego2exo_layers == "0,2" and config.ego2exo_num_tokens == 4
    assert config.mm_projector_type == "ego2exo_mlp2x_gelu" and config.mm_vision_select_layer == -2
    from safetensors.torch import load_file

    first = load_file(tmp_path / "a_llama" / "model.safetensors")
    ego = {n: v for n, v in trainer.model.named_parameters() if "ego_tokens" in n}
    assert ego
    for name, value in ego.items():
        torch.testing.assert_close(value, first[name.removeprefix("base_model.model.")], atol=1e-6, rtol=0)
    with pytest.raises(Ego2ExoError, match="other settings than the flags.*num_tokens: 4 / 9"):
        train(tmp_path / "c", **{**on, "ego2exo_num_tokens": 9})
    with pytest.raises(Ego2ExoError, match="--ego2exo False"):
        train(tmp_path / "c", **{**on, "ego2exo": False})
