"""`checkpoint-N`: whole, resumable, loadable."""

import shutil

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError

from .conftest import losses

WAYS = {
    "lora": {},
    "projector": {"lora_enable": False, "tune_mm_mlp_adapter": True},
    "full": {"lora_enable": False},
}


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_run(way, train, tmp_path):
    flags = {"num_train_epochs": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}
    whole = train(tmp_path / "whole", **WAYS[way], **flags)
    assert (tmp_path / "whole" / "checkpoint-6").is_dir()
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", cut / "checkpoint-6")
    resumed = train(cut, **WAYS[way], **flags)
    assert losses(resumed) == losses(whole)
    kept = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, kept[name]), name


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
