"""Each wrong command line: one Ego2ExoError before any weight loads, and nothing written."""

import json
import shutil

import pytest
import torch

from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.errors import Ego2ExoError
from tests.videos import sample

pytestmark = pytest.mark.usefixtures("no_weights")
# Flags that llava-torch lacks.
NEXT = {"trainer_mode", "mm_tunable_parts", "model_class_name", "mm_newline_position", "add_faster_video"}

OTHER = {"ego2exo_block": "transformer"}
JOINED = {"mm_vision_select_feature": "slicefour_patch"}
# flags; a word of what was given; a word of what is allowed or to do
WRONG = {
    "tokens": ({"ego2exo_num_tokens": 0}, "--ego2exo_num_tokens 0", "whole number from 1"),
    "layer range": ({**OTHER, "ego2exo_layers": "0,4"}, "'0,4' is out of range", "0 to 3"),
    "grid": ({"ego2exo_grid": "2x2x2"}, "grid 2x2x2 with --ego2exo_num_tokens 4", "product"),
    "fine grid": ({"ego2exo_num_tokens": 5, "ego2exo_grid": "1x5x1"}, "4 patches a side", "4 rows"),
    "another block's": ({**OTHER, "ego2exo_grid": "1x2x2"}, "--ego2exo_grid 1x2x2 with --ego2exo_block", "encoder"),
    "joined layers": (JOINED, "--ego2exo_block encoder", "transformer with --ego2exo_init random"),
    "joined for a copy": ({**OTHER, **JOINED}, "--ego2exo_init encoder", "random"),
    "unread layer": ({"ego2exo_layers": "0,3"}, "out of range", "0 to 2"),
    "flash with time": ({"ego2exo_attn": "flash"}, "time bias", "sdpa"),
    "flash": ({**OTHER, "ego2exo_attn": "flash"}, "--ego2exo_attn flash", "folded, sdpa"),
    "pooler": ({"mm_projector_type": "pooler"}, "pooler", "mlp<N>x_gelu"),
    "trainer": ({"trainer_type": "magic"}, "--trainer_type 'magic'", "ego2exo"),
    "trainer mode": ({"trainer_mode": "zo"}, "--trainer_mode zo", "regular"),
    "two types": ({"bf16": True, "fp16": True}, "--bf16 True with --fp16 True", "one of them"),
    "frozen": ({"freeze_mm_mlp_adapter": True}, "--freeze_mm_mlp_adapter True", "mm_mlp_adapter"),
    "frozen part": ({"mm_tunable_parts": "mm_language_model"}, "mm_language_model", "mm_mlp_adapter"),
    "bits alone": ({"bits": 4, "lora_enable": False}, "--bits 4", "--lora_enable True"),
    "quant": ({"bits": 4, "quant_type": "int4"}, "--quant_type int4", "nf4, fp4"),
    "adapter": ({"pretrain_mm_mlp_adapter": "/nowhere/a.bin"}, "/nowhere/a.bin", "mm_projector.bin"),
    "class": ({"model_class_name": "LlavaQwenForCausalLM"}, "--model_class_name", "leave it out"),
    "template": ({"version": "nope"}, "--version nope", "v1"),
    "base": ({"model_name_or_path": "/nowhere/llama"}, "'/nowhere/llama'", "checkpoint"),
    "tower": ({"vision_tower": "/nowhere/clip"}, "'/nowhere/clip'", "path"),
    "tower without layers": ({"vision_tower": "imagebind_huge"}, "imagebind_huge", "SigLIP"),
    "tower type": ({"vision_tower_dtype": "int8"}, "--vision_tower_dtype 'int8'", "bfloat16"),
    "marks": ({"tune_mm_mlp_adapter": True, "mm_use_im_start_end": True}, "do not run with both", "start_end False"),
    "biases": ({"lora_bias": "lora_only"}, "--lora_bias lora_only", "none, all"),
    "unknown flags": ({"ego2exo_num_token_s": 4, "zz": 1}, "--ego2exo_num_token_s, --zz", "--ego2exo_num_tokens"),
    "data": ({"data_path": "/nowhere/train.json"}, "/nowhere/train.json", "JSON"),
    "rate": ({"video_fps": 0}, "--video_fps 0", "1 or more"),
    "frames": ({"frames_upbound": -1}, "--frames_upbound -1", "0 or more"),
    "same frames": ({"frames_upbound": 0, "force_sample": True}, "--force_sample True", "--frames_upbound 1"),
    "length": ({"model_max_length": 0}, "--model_max_length 0", "1 or more"),
    "batch": ({"per_device_train_batch_size": 0}, "--per_device_train_batch_size 0", "1 or more"),
    "no epoch": ({"num_train_epochs": 0}, "--num_train_epochs 0", "--max_steps"),
    "layer": ({"mm_vision_select_layer": -9}, "--mm_vision_select_layer -9", "-5 to 4"),
    "learning rate": ({"learning_rate": "nan"}, "--learning_rate nan", "0 or more"),
    "pool": ({"ego2exo_pool": "2by2"}, "--ego2exo_pool '2by2'", "`2x2`"),
    "pool size": ({"ego2exo_pool": "1x5"}, "4 x 4 patches", "1x1 to 4x4"),
    "pool in a plain run": ({"ego2exo": None, "ego2exo_pool": "5x1", "vision_tower": "clip"}, "4 x 4 patches", "4x4"),
    "pool without a tower": ({"ego2exo": None, "ego2exo_pool": "2x2"}, "without --vision_tower", "--vision_tower"),
    "pool of nothing": ({"ego2exo_pool": "2x2", "ego2exo_visual_tokens": False}, "nothing to pool", "leave"),
    "pool of lines": (
        {"ego2exo_pool": "1x2", "mm_newline_position": "grid", "mm_patch_merge_type": "spatial_unpad"},
        "--mm_newline_position grid",
        "square",
    ),
    "pool of fast video": ({"ego2exo_pool": "2x2", "add_faster_video": True}, "--add_faster_video", "leave"),
    "another block's, as its default": (
        {**OTHER, "ego2exo_time_bias": True},
        "--ego2exo_time_bias True with --ego2exo_block",
        "encoder",
    ),
    "bottleneck alone": ({"ego2exo_bottleneck": 1}, "--ego2exo_bottleneck 1", "--ego2exo_visual_tokens False"),
    "bottleneck without end": (
        {"ego2exo_bottleneck": 0.4, "ego2exo_visual_tokens": False},
        "with --ego2exo_visual_tokens False",
        "leave",
    ),
    "schedule": (
        {"ego2exo_bottleneck": 0.4, "lr_scheduler_type": "reduce_lr_on_plateau"},
        "reduce_lr_on_plateau",
        "cosine",
    ),
    "bottleneck without tokens": (
        {"ego2exo_bottleneck": 0.4, "ego2exo": False},
        "_bottleneck without",
        "--ego2exo True",
    ),
    "preset": ({"ego2exo_preset": "papers"}, "--ego2exo_preset papers", "paper"),
    "preset and flag": (
        {"ego2exo_preset": "paper", "ego2exo_layers": "0,2"},
        "paper with --ego2exo_layers 0,2",
        "--ego2exo_layers all",
    ),
    "text file": ({"data_path": "/nowhere/train.jsonl"}, "/nowhere/train.jsonl", ".json file"),
}


def refused(train, out, *arguments, **flags) -> Ego2ExoError:
    with pytest.raises(Ego2ExoError) as error:
        train(out, *arguments, **flags)
    assert not (out / "config.json").exists()
    return error.value


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags(name, flavour, train, tmp_path, world):
    flags, given, further = WRONG[name]
    if NEXT & flags.keys() and flavour != "next":
        pytest.skip("llava-torch lacks this flag")
    if flags.get("vision_tower") == "clip":
        flags = {**flags, "vision_tower": world.base().parent / "vision_tower"}
    error = refused(train, tmp_path / "out", **flags)
    assert given in error.given and further in f"{error.allowed} {error.remedy}"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def renamed(world, tmp_path):
    """The base under another path, with changes to its config."""

    def copy(name, kind="llama", **config):
        folder = tmp_path / name
        shutil.copytree(world.base(kind), folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **config}))
        return folder

    return copy


def test_a_base_without_letters_in_its_path(flavour, kinds, renamed, train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what pytest calls its folders holds letters too
    base = renamed("tin", kinds[-1]).relative_to(tmp_path)
    if flavour == "next":
        assert "ln -s tin tin-qwen" in refused(train, tmp_path / "out", kinds[-1], model_name_or_path=base).remedy
        (tmp_path / "tin-qwen").symlink_to("tin")
        base = "tin-qwen"
    with pytest.raises(AssertionError, match="weights were loaded"):
        train(tmp_path / "out", kinds[-1], model_name_or_path=base)


def test_a_base_that_llava_cannot_train(renamed, train, tmp_path):
    assert "'gpt2'" in refused(train, tmp_path / "out", model_name_or_path=renamed("llama", model_type="gpt2")).given
    for file in (base := renamed("llama_2")).glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refused(train, tmp_path / "out", model_name_or_path=base).given


def test_paths_that_llava_torch_takes_for_mpt(flavour, renamed, train, tmp_path):
    base = renamed("llama_prompts")
    if flavour == "next":
        with pytest.raises(AssertionError, match="weights were loaded"):
            train(tmp_path / "out", model_name_or_path=base)
    else:
        assert "'mpt'" in refused(train, tmp_path / "out", model_name_or_path=base).given


def test_a_projector_file_without_the_embeddings_that_llava_wants(renamed, train, world, tmp_path):
    """Of `<im_start>` and `<im_end>`; LLaVA ends in a KeyError after the weights have loaded."""
    file = tmp_path / "mm_projector.bin"
    flags = {"pretrain_mm_mlp_adapter": file, "mm_use_im_start_end": True}
    size = json.loads((world.base() / "config.json").read_text())["vocab_size"]
    for rows, fits in ((None, False), (7, False), (2, True), (size + 2, True)):
        weights = {"model.mm_projector.0.weight": torch.zeros(1)}
        torch.save(weights if rows is None else {**weights, "model.embed_tokens.weight": torch.zeros(rows, 64)}, file)
        if fits:
            with pytest.raises(AssertionError, match="weights were loaded"):
                train(tmp_path / "out", **flags)
        else:
            assert "--mm_use_im_start_end False" in refused(train, tmp_path / "out", **flags).remedy


def test_a_padding_token_that_no_adapter_keeps(renamed, train, tmp_path):
    base = renamed("llama")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        kept = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps({name: value for name, value in kept.items() if name != "pad_token"}))
    assert "[PAD]" in refused(train, tmp_path / "out", model_name_or_path=base, version="v0").given


@pytest.mark.parametrize("kind", ["lora", "projector"])
def test_a_folder_without_a_whole_model(kind, renamed, train, tmp_path):
    """As base, before anything else: its tokenizer may be missing, or the output folder impossible."""
    base = renamed("llama")
    (base / "model.safetensors").unlink()
    if kind == "lora":
        (base / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    else:
        (base / "mm_projector.bin").touch()
    base.rename(checkpoint := tmp_path / "checkpoint-8")
    error = refused(train, tmp_path / "out", model_name_or_path=checkpoint, vision_tower="/nowhere")
    assert str(checkpoint) in error.given and "merge" in error.remedy and f"--output_dir {tmp_path}" in error.remedy
    assert ("--base some/base" in error.remedy) == (kind == "lora")


def test_an_output_folder_that_cannot_be(train, tmp_path):
    (tmp_path / "file").touch()
    error = refused(train, tmp_path / "file" / "x", data_path="/nowhere")
    assert "--output_dir" in error.given and "another --output_dir" in error.remedy


def test_a_checkpoint_of_another_block(renamed, train, tmp_path):
    stored = {"ego2exo": True, **Ego2ExoConfig(num_tokens=4, block="encoder", grid="1x2x2").to_dict()}
    base = renamed("encoder_llama", **stored)
    flags = {"model_name_or_path": base, "ego2exo_num_tokens": None}
    for changed, line in (
        ({"ego2exo_block": "transformer"}, "ego2exo_block: encoder / transformer"),
        ({"ego2exo_grid": "4x1x1"}, "ego2exo_grid: 1x2x2 / 4x1x1"),
        ({"ego2exo_num_tokens": 8}, "ego2exo_num_tokens: 4 / 8"),
    ):
        assert line in refused(train, tmp_path / "out", **{**flags, **changed}).given
    with pytest.raises(AssertionError, match="weights were loaded"):  # the same grid, and what may change
        train(tmp_path / "out", **flags, ego2exo_init="random")
    stored = {"ego2exo": True, **Ego2ExoConfig(num_tokens=4, block="cross_attention", init="random").to_dict()}
    with pytest.raises(AssertionError, match="weights were loaded"):  # another block than the default, inherited
        train(tmp_path / "out", model_name_or_path=renamed("plain_llama", **stored), ego2exo_num_tokens=None)


def test_a_tower_whose_layers_have_other_parts(train, tmp_path):
    from transformers import Dinov2Config

    Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=4).save_pretrained(tmp_path / "dino")
    for flags in ({}, OTHER):
        error = refused(train, tmp_path / "out", vision_tower=f"hf:{tmp_path / 'dino'}", **flags)
        assert "layer_scale1" in error.given and "cross_attention or transformer" in error.remedy


GOOD = sample("00_red_left.mp4", "yes")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_no_training_json(text, train, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    error = refused(train, tmp_path / "out", data_path=tmp_path / "bad.json")
    assert "bad.json" in error.given and "JSON list" in error.allowed


def test_images_without_visual_tokens(train, tmp_path):
    from PIL import Image

    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    entry = {"image": "a.png", "conversations": GOOD["conversations"]}
    (tmp_path / "d.json").write_text(json.dumps([GOOD, entry]))
    flags = {"data_path": tmp_path / "d.json", "image_folder": tmp_path}
    for name, value in (("ego2exo_visual_tokens", False), ("ego2exo_bottleneck", 0.4)):
        assert f"--{name}" in refused(train, tmp_path / "out", **flags, **{name: value}).given


def test_a_schedule_that_deepspeed_makes(train, tmp_path):
    (tmp_path / "zero.json").write_text(json.dumps({"scheduler": {"type": "WarmupLR"}}))
    error = refused(train, tmp_path / "out", deepspeed=tmp_path / "zero.json", ego2exo_bottleneck=0.4)
    assert "scheduler in --deepspeed" in error.given and "--lr_scheduler_type" in error.allowed
