"""A LoRA folder whose files do not hold exactly the adapter that was trained: refused by name, or read as meant."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.merge import merge

from .test_loader import load, logits

WEIGHTS, EXTRAS, CONFIG = "adapter_model.safetensors", "non_lora_trainables.bin", "adapter_config.json"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def named(found, old, new):
    return {name.replace(old, new): value for name, value in found.items()}


def without(found, part):
    return {name: value for name, value in found.items() if part not in name}


def cut(found, part):
    """Only the first two rows of some weights."""
    return {name: value[:2] if part in name else value for name, value in found.items()}


NORM = {"base_model.model.model.norm.weight": torch.ones(64)}
# what becomes of the adapter's weights; words of the error
WRONG_WEIGHTS = {
    "empty": (lambda found: {}, "28 missing"),
    "a layer gone": (lambda found: without(found, "layers.0"), "14 missing .*layers.0"),
    "a layer more": (lambda found: found | named(found, "layers.1", "layers.7"), "14 of no weight .*layers.7"),
    "other names": (lambda found: named(found, "base_model.", "module."), "28 missing.* 28 of no weight.*module.model"),
    "a weight of the model": (lambda found: found | NORM, "1 of no weight of the model .*norm.weight"),
    "both names": (lambda found: found | named(found, ".weight", ".default.weight"), "28 are there twice"),
    "another rank": (lambda found: cut(found, "lora_A"), r"14 of another shape.*\(2, "),
}
WRONG_EXTRAS = {
    "one gone": (lambda found: without(found, "mm_projector.0.weight"), "1 missing .*projector.0"),
    "another shape": (lambda found: cut(found, "mm_projector.0.weight"), "1 of another shape"),
    "no tensors": (lambda found: {"x": 1}, "other things than tensors"),
}
WRONG_CONFIG = {
    "fewer targets": ({"target_modules": ["q_proj"]}, "24 of no weight of the model"),
    "more targets": ({"target_modules": [*ALL, "lm_head"]}, "2 missing .*lm_head"),
    "another rank": ({"r": 8}, r"28 of another shape .*\(8, "),
    "a part of the model": ({"target_modules": [*ALL, "mm_projector"]}, "has mm_projector among its target_modules"),
    "a later PEFT's setting": ({"alora_invocation_tokens": [1, 2]}, r"sets alora_invocation_tokens: \[1, 2\]"),
    "a later PEFT's start": ({"init_lora_weights": "pissa_niter_0"}, "peft cannot build"),
    "no LoRA": ({"peft_type": "IA3"}, "'IA3'"),
}


@pytest.fixture
def adapter(student, tmp_path):
    """A copy of a LoRA student to be damaged, and its base."""
    trained = student()
    return trained.copy(tmp_path / "lora"), trained.base


def write(file, found):
    values = {name: value.clone().contiguous() for name, value in found.items()} if file.name == WEIGHTS else found
    save_file(values, file) if file.name == WEIGHTS else torch.save(values, file)


def read(file):
    return load_file(file) if file.name == WEIGHTS else torch.load(file, weights_only=True)


@pytest.mark.parametrize(("name", "cases"), [(WEIGHTS, WRONG_WEIGHTS), (EXTRAS, WRONG_EXTRAS)])
def test_weights_that_do_not_cover_the_adapter(name, cases, adapter):
    folder, base = adapter
    kept = read(folder / name)
    for change, words in cases.values():
        write(folder / name, change(kept))
        with pytest.raises(Ego2ExoError, match=words):
            load(folder, base)


def test_configs_that_are_not_the_adapters(adapter, tmp_path):
    folder, base = adapter
    kept = json.loads((folder / CONFIG).read_text())
    for changes, words in WRONG_CONFIG.values():
        (folder / CONFIG).write_text(json.dumps({**kept, **changes}))
        with pytest.raises(Ego2ExoError, match=words) as error:
            load(folder, base)
        assert "\n" not in str(error.value)
    with pytest.raises(Ego2ExoError, match="LoRA"):
        merge(str(folder), str(base), str(tmp_path / "out"))
    assert not list(tmp_path.glob("out*"))
    (folder / CONFIG).write_text("{")
    with pytest.raises(Ego2ExoError, match=f"{CONFIG} is no JSON"):
        load(folder, base)
    (folder / CONFIG).write_text(json.dumps(kept))
    (folder / WEIGHTS).unlink()
    with pytest.raises(Ego2ExoError, match=f"holds {CONFIG} without weights"):
        load(folder, base)


def test_files_that_others_wrote(adapter, student, caplog):
    """By DeepSpeed runs, with the adapter's name in the keys; by PEFT 0.18; as a pickle."""
    folder, base = adapter
    wanted, kept = logits(load(student().folder, base)[1]), read(folder / WEIGHTS)
    write(folder / WEIGHTS, named(kept, ".weight", ".default.weight"))
    config = json.loads((folder / CONFIG).read_text())
    later = {"alora_invocation_tokens": None, "exclude_modules": [], "use_qalora": False, "qalora_group_size": 16}
    (folder / CONFIG).write_text(json.dumps({**config, **later, "peft_version": "0.18.0"}))
    with caplog.at_level(logging.WARNING, "llava_ego2exo"):
        assert torch.equal(logits(load(folder, base)[1]), wanted)
    (line,) = [message for message in caplog.messages if CONFIG in message]
    assert "alora_invocation_tokens, exclude_modules, peft_version" in line
    (folder / WEIGHTS).unlink()
    torch.save(kept, folder / "adapter_model.bin")
    assert torch.equal(logits(load(folder, base)[1]), wanted)


def test_another_base_of_the_same_sizes(adapter, tmp_path, caplog):
    folder, base = adapter
    same = shutil.copytree(base, tmp_path / "same")
    with caplog.at_level(logging.WARNING, "llava_ego2exo"):
        merge(str(folder), str(same), str(tmp_path / "a"))
    assert "was trained from" not in caplog.text
    weights = load_file(same / "model.safetensors")
    save_file(
        {**weights, "model.norm.weight": weights["model.norm.weight"] + 1}, same / "model.safetensors", {"format": "pt"}
    )
    for use in (lambda: load(folder, same), lambda: merge(str(folder), str(same), str(tmp_path / "b"))):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "llava_ego2exo"):
            use()
        assert sum(f"was trained from {base}, and is loaded on {same}" in line for line in caplog.messages) == 1
