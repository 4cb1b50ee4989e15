"""Saved checkpoints of every kind, through LLaVA's real `load_pretrained_model`."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava_ego2exo.demo.models import language_sizes, tiny_tower
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.merge import merge
from llava_ego2exo.host.model.pretraining import assemble


def load(path, base=None, name="x", **kwargs):
    from llava.model.builder import load_pretrained_model

    return load_pretrained_model(str(path), base and str(base), name, **{"torch_dtype": "float32", **kwargs})


@pytest.fixture
def trained(student):
    return student().folder


def logits(model, seed=0):
    torch.manual_seed(seed)
    ids = torch.tensor([[1, 40, -200, 50, 60, 70]])
    video = torch.randn(3, 3, 28, 28, dtype=model.dtype)
    with torch.no_grad():
        return model(ids, images=[video], modalities=["video"]).logits


def test_merged_equals_unmerged(student, tmp_path, monkeypatch):
    trained = student()
    (tmp_path / "merged").mkdir()
    monkeypatch.chdir(tmp_path / "merged")
    merge(str(trained.folder), str(trained.base), ".", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    adapted, merged = load(trained.folder, trained.base)[1], load(tmp_path / "merged")[1]
    torch.testing.assert_close(logits(adapted), logits(merged), atol=1e-5, rtol=1e-5)
    for (name, a), (_, b) in zip(adapted.named_parameters(), merged.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_any_dtype(world, registered):
    for given, dtype in {None: torch.float16, torch.bfloat16: torch.bfloat16}.items():
        assert load(world.base(), torch_dtype=given)[1].dtype == dtype
    with pytest.raises(Ego2ExoError, match="torch_dtype 'int8'"):
        load(world.base(), torch_dtype="int8")


@pytest.mark.parametrize("bits", [4, 8])
def test_bits_quantize_the_language_model_alone(bits, world, trained, registered):
    bnb = pytest.importorskip("bitsandbytes")
    wanted = {4: bnb.nn.Linear4bit, 8: bnb.nn.Linear8bitLt}[bits]
    for path, base in ((world.base(), None), (trained, world.base())):
        model = load(path, base, torch_dtype="bfloat16", **{f"load_{bits}bit": True})[1]
        found = {name for name, module in model.named_modules() if isinstance(module, wanted)}
        assert found and all("model.layers." in name for name in found)
        assert torch.isfinite(logits(model)).all() and model.lm_head.weight.dtype == torch.bfloat16
    assert any("lora_" in name for name, _ in model.named_parameters())


def test_projector_only(student, tmp_path):
    trained = student(way="projector")
    saved = torch.load(trained.folder / "mm_projector.bin", weights_only=True)
    model = load(trained.folder, trained.base)[1]
    state = model.state_dict()
    for name, value in saved.items():
        assert torch.equal(state[name.removeprefix("base_model.")], value), name
    assert len(saved) == sum("mm_projector" in name for name in state)
    merge(str(trained.folder), str(trained.base), str(tmp_path / "m"))
    assert torch.equal(logits(load(tmp_path / "m")[1]), logits(model))


def test_a_tuned_tower_is_kept(world, train, tmp_path):
    """LLaVA-NeXT loads such a tower into the meta device and continues with garbage."""
    tokenizer, model, *_ = load(world.base())
    tower = model.get_vision_tower().vision_tower
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.01)
    whole = tmp_path / "whole_llama"
    model.save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    student = train(tmp_path / "l", max_steps=1, model_name_or_path=whole)
    assert not [name for name, _ in student.model.named_parameters() if "lora_" in name and "vision_tower" in name]
    for arguments in ((whole,), (tmp_path / "l", whole)):
        loaded = load(*arguments)[1].get_vision_tower().vision_tower
        for (name, a), b in zip(tower.named_parameters(), loaded.parameters(), strict=True):
            assert torch.equal(a, b.to(a.dtype)), name


def test_class_comes_from_the_config_not_from_the_path(world, kinds, train, tmp_path):
    """`yi` or `llama` anywhere in the path makes LLaVA-NeXT load and train a Qwen as a Llama, without its biases."""
    if "qwen" not in kinds:
        pytest.skip("llava-torch has no Qwen")
    misleading = Path(shutil.copytree(world.base("qwen"), tmp_path / "yi" / "my-llama"))
    config = json.loads((misleading / "config.json").read_text())
    with pytest.warns(UserWarning, match="is a LlavaQwenForCausalLM by its config"):
        trainer = train(tmp_path / "s", "qwen", model_name_or_path=misleading, max_steps=1)
    assert type(trainer.model.base_model.model).__name__ == "LlavaQwenForCausalLM"
    for model_type in ("llava_qwen", "llava"):  # the latter as the OneVision hub configs
        (misleading / "config.json").write_text(json.dumps({**config, "model_type": model_type}))
        assert type(load(misleading, name="llava_mistral")[1]).__name__ == "LlavaQwenForCausalLM"
    other = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}
    (misleading / "config.json").write_text(json.dumps({**config, **other}))
    with pytest.raises(Ego2ExoError, match="LlavaForConditionalGeneration"):
        load(misleading)


def test_checkpoint_and_base_that_do_not_fit(trained, world, registered, tmp_path):
    sizes = language_sizes(512, hidden_size=32)
    other = assemble("llava_llama", tmp_path / "other", sizes, tiny_tower(tmp_path / "t"))
    mistral = Path(shutil.copytree(world.base(), tmp_path / "mistral"))
    config = json.loads((mistral / "config.json").read_text())
    (mistral / "config.json").write_text(json.dumps({**config, "model_type": "llava_mistral"}))
    for path, base, message in (
        (trained, mistral, "llava_llama model, and .* llava_mistral model"),
        (trained, None, f"without its base.*{world.base()}"),
        (world.base(), world.base(), "whole model"),
        (trained, other, "hidden_size 64.*32"),
    ):
        with pytest.raises(Ego2ExoError, match=message):
            load(path, base)


def test_missing_weights(trained, world, registered, tmp_path):
    lora = Path(shutil.copytree(trained, tmp_path / "lora"))
    (lora / "non_lora_trainables.bin").rename(lora / "kept")
    with pytest.raises(Ego2ExoError, match="no non_lora_trainables.bin"):
        load(lora, world.base())
    weights = torch.load(lora / "kept", weights_only=True)
    fewer = {name: weight for name, weight in weights.items() if "tokens" not in name}
    more = {**weights, "base_model.model.model.nonsense": torch.ones(1)}
    for changed, message in ((fewer, "in no file of.*ego_tokens"), (more, "1 of no weight of the model .*nonsense")):
        torch.save(changed, lora / "non_lora_trainables.bin")
        with pytest.raises(Ego2ExoError, match=message):
            load(lora, world.base())


def test_training_quantizes_the_language_model_alone(student):
    bnb = pytest.importorskip("bitsandbytes")
    model = student(way="qlora4").trainer.model
    found = {name: module for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    assert len(found) == 14 and all(".layers." in name and "vision" not in name for name in found)
    weights = [module.weight for module in found.values()]
    # Not `quant_state.nested`: on a CPU the first evaluation, perhaps in another test, repacks the weights.
    assert all(weight.quant_state.quant_type == "nf4" and weight.compress_statistics for weight in weights)


def test_merge_refuses_a_full_folder(trained, world, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(Ego2ExoError, match="not empty"):
        merge(str(trained), str(world.base()), str(tmp_path / "out"))
    assert (tmp_path / "out" / "precious").exists()


def test_tied_embeddings_survive(world, registered, tmp_path):
    folder = assemble(
        "llava_llama", tmp_path / "tied", language_sizes(512, tie_word_embeddings=True), tiny_tower(tmp_path / "t")
    )
    for file in world.base().glob("*token*"):
        shutil.copy(file, folder)
    model = load(folder)[1]
    assert model.lm_head.weight.data_ptr() == model.get_model().embed_tokens.weight.data_ptr()


@pytest.fixture
def offloaded(registered, tmp_path):
    """As on a GPU that is too small: accelerate leaves the language model's layers on the disk."""
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    original = LlavaLlamaForCausalLM.from_pretrained.__func__

    def from_pretrained(cls, path, *args, **kwargs):
        parts = ("model.embed_tokens", "model.norm", "model.mm_projector", "model.vision_tower", "lm_head")
        places = dict.fromkeys(parts, "cpu") | {"model.layers": "disk"}
        return original(cls, path, *args, **{**kwargs, "device_map": places, "offload_folder": str(tmp_path / "disk")})

    with pytest.MonkeyPatch.context() as patch:  # undone before the plugin is
        patch.setattr(LlavaLlamaForCausalLM, "from_pretrained", classmethod(from_pretrained))
        yield


def test_offloaded_weights(world, trained, offloaded):
    """A whole model runs from there; an adapter cannot be merged into weights that are elsewhere."""
    assert torch.isfinite(logits(load(world.base())[1])).all()
    with pytest.raises(Ego2ExoError, match="offloaded.*llava-ego2exo merge"):
        load(trained, world.base())


def test_a_base_that_transformers_would_not_save(world, train, tmp_path, caplog, recwarn):
    """As lmsys/vicuna-7b-v1.5: settings of sampling in a generation_config.json that does not sample."""
    base = Path(shutil.copytree(world.base(), tmp_path / "llama"))
    (base / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}')
    train(tmp_path / "whole", model_name_or_path=base, max_steps=1, save_steps=1, lora_enable=False)
    assert "left out temperature 0.9, top_p 0.6" in caplog.text
    assert not [warning for warning in recwarn if "do_sample" in str(warning.message)]
    load(tmp_path / "whole")
    train(tmp_path / "lora", model_name_or_path=base, max_steps=1)
    merge(str(tmp_path / "lora"), str(base), str(tmp_path / "merged"))
    kept = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == 2 and "top_p" not in kept
    assert not list(tmp_path.glob("*.part"))
