"""Tokens that LLaVA adds to a plain language model: their embeddings load and merge with the student, and resume."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from llava_ego2exo.demo.models import language_sizes, tiny_tokenizer
from llava_ego2exo.host.inference.answerer import Answerer
from llava_ego2exo.host.merge import merge
from tests.videos import QUESTION

from .test_loader import load, logits

STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "frames_upbound": 2, "ego2exo_check_saved": True}
ADDED = {
    "mm_use_im_patch_token": ["<im_patch>"],
    "mm_use_im_start_end": ["<im_start>", "<im_end>"],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A language model as a base: no tower, no projector, and none of LLaVA's tokens."""
    folder = tiny_tokenizer(tmp_path_factory.mktemp("plain") / "vicuna", "llama")
    size = len(AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaForCausalLM.config_class(**language_sizes(size))).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("way", [{}, {"lora_enable": False, "tune_mm_mlp_adapter": True}], ids=["lora", "projector"])
def test_students_of_a_plain_base(way, plain, train, world, tmp_path):
    flags = dict.fromkeys(ADDED, True) if not way else {"mm_use_im_patch_token": True}
    tokens = [token for flag in flags for token in ADDED[flag]]
    tower = {
        "vision_tower": world.root / "vision_tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
    }
    run = {"model_name_or_path": plain, **tower, **flags, **way, **STEPS}
    trainer, before = train(tmp_path / "s", **run), len(AutoTokenizer.from_pretrained(plain))
    memory = trainer.model.get_input_embeddings().weight, trainer.model.get_output_embeddings().weight
    tokenizer, model, *_ = load(tmp_path / "s", plain)
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(before, len(tokenizer)))
    for own, loaded in zip(memory, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert torch.equal(own, loaded.weight) and len(own) == before + len(tokens)
    merge(str(tmp_path / "s"), str(plain), str(tmp_path / "merged"), "float32")
    tokenizer, merged, *_ = load(tmp_path / "merged")
    assert torch.equal(logits(merged), logits(model)) and len(tokenizer) == before + len(tokens)
    asked = Answerer((tokenizer, model, None, 0), world.template("llama"))._ids(QUESTION)
    assert torch.equal(trainer.train_dataset[0]["input_ids"][: len(asked)], asked)
    shutil.rmtree(tmp_path / "s" / "checkpoint-2")
    resumed = train(tmp_path / "s", **run)
    for (name, own), (_, again) in zip(trainer.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(own, again), name
    file = tmp_path / "s" / ("mm_projector.bin" if way else "non_lora_trainables.bin")
    kept = torch.load(file, weights_only=True)
    rows = {name: value for name, value in kept.items() if name.endswith(".added_rows")}
    assert [len(value) for value in rows.values()] == [len(tokens)] * 2
    torch.save({name: value for name, value in kept.items() if name not in rows}, file)
    for own in (model := load(tmp_path / "s", plain)[1]).get_input_embeddings(), model.get_output_embeddings():
        assert torch.allclose(own.weight[before:], own.weight[:before].mean(dim=0))
