"""`checkpoint-N`: resumable to the same bytes, loadable, and refused where it belongs to another run."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.resume.checkpoints import MANIFEST
from llava_ego2exo.host.resume.signature import differences
from llava_ego2exo.host.resume.state import ResumeMixin

from ..training.distillation import distilling_samples, key_of, write_json, write_logits

STEPS = {"num_train_epochs": 3, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 3}
KL = {"ego2exo_kd_weight": 0.7, "lora_dropout": 0.05}
PROJECTOR = {"lora_enable": False, "tune_mm_mlp_adapter": True}
# Five samples in steps of two: the checkpoint of the first epoch has one sample behind its last step.
EPOCHS = {"num_train_epochs": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
WAYS = {
    "projector, another teacher": ({**STEPS, **PROJECTOR, **KL, "ego2exo_teacher": "base"}, 3),
    "stored answers, saved with each epoch": (
        {**EPOCHS, **KL, "ego2exo_teacher": "cached", "save_strategy": "epoch", "count": 5}, 2,
    ),
    "LoRA, grouped by length, a worker, logs between steps": (
        {**STEPS, "group_by_modality_length": True, "texts": 3, "dataloader_num_workers": 1, "logging_steps": 2}, 3,
    ),
}  # fmt: skip


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}


def untimed(history):
    """All that was logged but the time it took."""
    return [
        {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
        for entry in history
    ]


def logged(trainer):
    return untimed(trainer.state.log_history)


def saved_log(folder):
    return untimed(json.loads((folder / "trainer_state.json").read_text())["log_history"])


def saved_weights(folder):
    """What a run has trained, from its output folder."""
    extras = folder / "non_lora_trainables.bin"
    found = torch.load(extras, weights_only=True) if extras.is_file() else {}
    for name in ("adapter_model.safetensors", "model.safetensors"):
        found |= load_file(folder / name) if (folder / name).is_file() else {}
    return found


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


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_run(way, world, train, tmp_path):
    given, step = WAYS[way]
    flags = material(world, tmp_path, dict(given))
    whole = train(tmp_path / "whole", **flags)
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "cut" / f"checkpoint-{step}")
    resumed = train(tmp_path / "cut", **flags)
    assert logged(resumed) == logged(whole) and whole.state.global_step > step
    kept = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, kept[name]), name


def test_the_bottleneck_and_runs_resumed_around_its_end(world, train, tmp_path):
    """Six steps of two small batches; ordinary visual tokens are left out in the first three."""
    flags = material(world, tmp_path, {"count": 8, "num_train_epochs": 3, **KL})
    flags |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "ego2exo_pool": "2x2"}
    flags |= {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "cosine", "warmup_ratio": 0.3}
    whole = train(tmp_path / "whole", **flags, ego2exo_bottleneck=0.5)
    entries = [entry for entry in logged(whole) if "loss" in entry]
    assert [entry["bottleneck"] for entry in entries] == [1, 1, 1, 0, 0, 0]
    unsupervised = [entry["answer_tokens"] * (1 / entry["supervised_share"] - 1) for entry in entries]
    visual = 4 * 2 * 2
    assert unsupervised == pytest.approx([unsupervised[0] + n for n in (0, 0, 0, visual, visual, visual)], abs=0.01)
    peak = 5e-3  # warm-up of one step, then half a cosine over two; in each stage
    assert [entry["learning_rate"] for entry in entries] == pytest.approx(2 * [peak, peak / 2, 0])
    start, folders = world.base() / "model.safetensors", [tmp_path / "whole" / f"checkpoint-{n}" for n in range(1, 7)]
    moved = []
    for folder in folders:
        found, ordinary = saved_weights(folder), "model.mm_projector.0.weight"
        moved.append(not torch.equal(found[f"base_model.model.{ordinary}"], load_file(start)[ordinary]))
        assert json.loads((folder / "config.json").read_text())["ego2exo_visual_tokens"] is True
    assert moved == [False, False, False, False, True, True]  # the first step of a warm-up has rate 0
    for step in (2, 3, 4):
        cut = tmp_path / f"cut_{step}"
        shutil.copytree(folders[step - 1], cut / f"checkpoint-{step}")
        resumed = train(cut, **flags, ego2exo_bottleneck=0.5)
        assert logged(resumed) == logged(whole), step
        kept = weights(whole)
        assert all(torch.equal(value, kept[name]) for name, value in weights(resumed).items()), step
    with pytest.raises(Ego2ExoError) as error:
        train(cut, **flags)
    assert "ego2exo_bottleneck: 0.5 / 0.0" in error.value.given
    with pytest.raises(Ego2ExoError) as error:  # its border would move
        train(cut, **{**flags, "num_train_epochs": 4}, ego2exo_bottleneck=0.5)
    assert "num_train_epochs: 3.0 / 4.0" in error.value.given


def test_a_checkpoint_loads_and_belongs_to_its_run(world, train, tmp_path, monkeypatch):
    flags = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "ego2exo_block": "cross_attention"}
    trainer = train(tmp_path / "s", **flags)
    from llava.model.builder import load_pretrained_model

    kept = weights(trainer)
    with monkeypatch.context() as patch:
        for known in (
            True,
            False,
        ):  # all steps are done; a scheduler of DeepSpeed's own does not say how many there are
            if not known:
                patch.delattr(ResumeMixin, "create_scheduler")
            again = train(tmp_path / "s", **flags)
            assert again.state.global_step == 1 and not (tmp_path / "s" / "checkpoint-2").exists()
            assert all(torch.equal(value, kept[name]) for name, value in weights(again).items())
    checkpoint = tmp_path / "s" / "checkpoint-1"
    state = load_pretrained_model(str(checkpoint), str(world.base()), "x", torch_dtype="float32")[1].state_dict()
    for name, value in weights(trainer).items():
        if "lora_" not in name:
            assert torch.equal(state[name.removeprefix("base_model.model.")], value), name
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "s", **flags, ego2exo_num_tokens=5)
    assert "ego2exo_num_tokens: 4 / 5" in error.value.given and "another --output_dir" in error.value.remedy
    for name, words in (("adapter_model.safetensors", "28 missing"), ("non_lora_trainables.bin", "37 missing")):
        kept = (checkpoint / name).read_bytes()
        save_file({}, checkpoint / name) if "adapter" in name else torch.save({}, checkpoint / name)
        manifest = (checkpoint / MANIFEST).read_text()
        listed = json.loads(manifest)
        listed["files"][name] = (checkpoint / name).stat().st_size
        (checkpoint / MANIFEST).write_text(json.dumps(listed))
        with pytest.raises(Ego2ExoError, match=f"checkpoint-1.*{words}"):
            train(tmp_path / "s", **{**flags, "max_steps": 2})
        (checkpoint / name).write_bytes(kept)
        (checkpoint / MANIFEST).write_text(manifest)
    (checkpoint / "non_lora_trainables.bin").unlink()
    with pytest.raises(Ego2ExoError) as error:
        train(tmp_path / "s", **{**flags, "max_steps": 2})
    assert "non_lora_trainables.bin" in error.value.given


def test_a_flag_that_the_checkpoint_lacks_counts_as_its_default():
    """It was made by an older version, or on the other LLaVA."""
    contents = {"processes": 1, "data": "d", "base": "b", "teacher": None}
    defaults = {"seed": 42, "ego2exo_num_tokens": 16, "learning_rate": 0.1}
    old = {**contents, "flags": {"seed": 42, "group_by_varlen": False}}
    assert differences(old, {**contents, "flags": defaults}, defaults) == ([], [])
    varlen = {**old, "flags": {"seed": 42, "group_by_varlen": True}}
    assert differences(varlen, {**contents, "flags": defaults}, defaults)[0] == ["group_by_varlen: True / no such flag"]
    now = {"seed": 42, "ego2exo_num_tokens": 4, "learning_rate": 0.2}
    assert differences(old, {**contents, "flags": now}, defaults) == (
        ["ego2exo_num_tokens: 16 / 4"], ["learning_rate: 0.1 / 0.2"],
    )  # fmt: skip


def test_training_continues_from_an_ego_checkpoint(train, tmp_path):
    """Without any ego flag the tokens, their settings and LLaVA's own ones are inherited."""
    shape = {"ego2exo_block": "cross_attention", "ego2exo_layers": "0,2", "ego2exo_key_embedding": "frame"}
    train(tmp_path / "a", num_train_epochs=1, lora_enable=False, **shape)
    (tmp_path / "a").rename(tmp_path / "a_llama")
    on = {"model_name_or_path": tmp_path / "a_llama", "ego2exo": None, "ego2exo_num_tokens": None}
    trainer = train(tmp_path / "b", num_train_epochs=1, learning_rate=1e-12, mm_projector_lr=1e-12, **on)
    config = trainer.model.config
    assert config.ego2exo and config.ego2exo_layers == "0,2" and config.ego2exo_num_tokens == 4
    assert config.mm_projector_type == "ego2exo_mlp2x_gelu" and config.mm_vision_select_layer == -2
    first = load_file(tmp_path / "a_llama" / "model.safetensors")
    ego = {name: value for name, value in trainer.model.named_parameters() if "ego_tokens" in name}
    assert ego
    for name, value in ego.items():
        torch.testing.assert_close(value, first[name.removeprefix("base_model.model.")], atol=1e-6, rtol=0)
    for flags, given in (
        ({"ego2exo_num_tokens": 9}, "4 / 9"), ({"ego2exo": False}, "--ego2exo False"),
        ({"ego2exo_preset": "paper"}, "ego2exo_layers: 0,2 / all"),
    ):  # fmt: skip
        with pytest.raises(Ego2ExoError) as error:
            train(tmp_path / "c", **{**on, **flags})
        assert given in error.value.given
