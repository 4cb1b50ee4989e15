"""Each wrong command line: one Ego2ExoError before any weight loads, and nothing written."""

import json
import shutil

import pytest

from llava_ego2exo.errors import Ego2ExoError
from tests.videos import sample

WRONG = {
    "tokens": ({"ego2exo_num_tokens": 0}, "--ego2exo_num_tokens 0.*whole number from 1"),
    "layer range": ({"ego2exo_layers": "0,4"}, "'0,4' is out of range.*0 to 3"),
    "layer twice": ({"ego2exo_layers": "1,1"}, "names a layer twice"),
    "layer empty": ({"ego2exo_layers": ""}, "no number"),
    "layer word": ({"ego2exo_layers": "last"}, "no number.*`all`"),
    "block": ({"ego2exo_block": "mamba"}, "--ego2exo_block mamba.*cross_attention, transformer"),
    "attn": ({"ego2exo_attn": "fast"}, "--ego2exo_attn fast.*auto, folded"),
    "flash": ({"ego2exo_attn": "flash"}, "flash-attn is not installed"),
    "key": ({"ego2exo_key_embedding": "time"}, "--ego2exo_key_embedding time"),
    "modality": ({"ego2exo_modalities": "audio"}, "--ego2exo_modalities 'audio'"),
    "rate": ({"ego2exo_lr": -1}, "--ego2exo_lr -1"),
    "type": ({"mm_projector_type": "ego2exo_resampler9"}, "ego2exo_resampler9.*not known to LLaVA.*mlp<N>x_gelu"),
    "pooler": ({"mm_projector_type": "pooler"}, "pools patches"),
    "trainer": ({"trainer_type": "magic"}, "--trainer_type 'magic'.*ego2exo"),
    "frozen": ({"freeze_mm_mlp_adapter": True}, "freezes the projector"),
    "bits": ({"bits": 3}, "--bits 3.*16, 8 or 4"),
    "bits alone": ({"bits": 4, "lora_enable": False}, "without LoRA.*add --lora_enable True"),
    "quant": ({"bits": 4, "quant_type": "int4"}, "--quant_type int4.*nf4, fp4"),
    "adapter": ({"pretrain_mm_mlp_adapter": "/nowhere/mm_projector.bin"}, "is no file"),
    "base": ({"model_name_or_path": "/nowhere/llama"}, "no readable config.json at '/nowhere/llama'"),
    "tower": ({"vision_tower": "/nowhere/clip"}, "no readable config.json at '/nowhere/clip'"),
    "tower without layers": ({"vision_tower": "imagebind_huge"}, "imagebind_huge.*does not expose"),
    "folder without config": ({"model_name_or_path": "/"}, "no readable config.json at '/' .the folder holds none"),
    "unknown flag": (
        {"ego2exo_num_token_s": 4},
        "num_token_s: no such flag.*write --ego2exo_num_tokens, not",
    ),
    "unknown flags": ({"a_b": 4, "zz": 1}, "--a_b, --zz: no such flag.*mend or remove"),
    "data": ({"data_path": "/nowhere/train.json"}, "no file /nowhere/train.json.*check the path"),
}


@pytest.fixture
def no_weights(monkeypatch):
    """Loading any weight fails the test."""
    from transformers import PreTrainedModel

    def refuse(cls, *args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(refuse))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_flags(name, world, train, no_weights, tmp_path):
    flags, message = WRONG[name]
    with pytest.raises(Ego2ExoError, match=f"(?s){message}"):
        train(tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def renamed(world, tmp_path):
    """The base under a path without any letters that LLaVA knows, and with changes to its config."""

    def copy(name, kind="llama", **config):
        folder = tmp_path / name
        shutil.copytree(world.base(kind), folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **config}))
        return folder

    return copy


def test_a_base_without_letters_in_its_path(flavour, kinds, renamed, train, no_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what pytest calls its folders holds letters too
    base = renamed("tin", kinds[-1]).relative_to(tmp_path)
    if flavour == "next":
        with pytest.raises(Ego2ExoError, match="path tin .*letters.*holds 'qwen'.*ln -s tin tin-qwen"):
            train(tmp_path / "out", kinds[-1], model_name_or_path=base)
        (tmp_path / "tin-qwen").symlink_to("tin")
        base = "tin-qwen"
    with pytest.raises(AssertionError, match="weights were loaded"):
        train(tmp_path / "out", kinds[-1], model_name_or_path=base)


def test_a_base_that_llava_does_not_know(renamed, train, no_weights, tmp_path):
    with pytest.raises(Ego2ExoError, match="is a 'gpt2' model.*llava_llama.*qwen2"):
        train(tmp_path / "out", model_name_or_path=renamed("llama", model_type="gpt2"))


def test_a_class_by_name(flavour, train, no_weights, tmp_path):
    message = "leave it out" if flavour == "next" else "--model_class_name: no such flag"
    with pytest.raises(Ego2ExoError, match=message):
        train(tmp_path / "out", model_class_name="LlavaQwenForCausalLM")


@pytest.mark.parametrize("below", ["", "x/y"])
def test_an_output_folder_that_cannot_be(below, train, no_weights, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Ego2ExoError, match="--output_dir .*file.* (is a file|cannot be written).*another --output_dir"):
        train(tmp_path / "file" / below, data_path="/nowhere")


def test_a_merge_that_cannot_be_written(tmp_path):
    from llava_ego2exo.merge import merge

    (tmp_path / "file").touch()
    with pytest.raises(Ego2ExoError, match="--out .*file is a file"):
        merge("/nowhere", "/nowhere", str(tmp_path / "file" / "x"))


def test_zeroth_order(flavour, world, train, no_weights, tmp_path):
    if flavour != "next":
        pytest.skip("llava-torch has no --trainer_mode")
    with pytest.raises(Ego2ExoError, match="--trainer_mode zo"):
        train(tmp_path / "out", trainer_mode="zo")


def test_tunable_parts(flavour, world, train, no_weights, tmp_path):
    if flavour != "next":
        pytest.skip("llava-torch has no --mm_tunable_parts")
    with pytest.raises(Ego2ExoError, match="mm_language_model freezes the projector"):
        train(tmp_path / "out", mm_tunable_parts="mm_language_model")


GOOD = sample("00_red_left.mp4", "yes")
BAD = {
    "no conversations": ({"id": 1, "video": "00_red_left.mp4"}, r"\[1\]: has no conversations"),
    "empty conversations": ({**GOOD, "conversations": []}, "has no conversations"),
    "turn": ({**GOOD, "conversations": [{"value": "?"}]}, "turn without `from` and `value`"),
    "no object": ([1], "is a list, not an object"),
    "no file": ({**GOOD, "video": "gone.mp4"}, "gone.mp4 is not there.*check --video_folder ./"),
    "no picture": ({"image": "a.png", "conversations": GOOD["conversations"]}, "check --image_folder .not given"),
    "no placeholder": ({**GOOD, "conversations": [{"from": "human", "value": "?"}]}, "has 0 <image>.*for 1 video"),
    "video placeholder": (
        {**GOOD, "conversations": [{"from": "human", "value": "<video>?"}]},
        "LLaVA's placeholder is <image>, for videos too",
    ),
    "stray placeholder": ({"conversations": GOOD["conversations"]}, "neither video nor image"),
    "list": ({**GOOD, "video": ["a.mp4", "b.mp4"]}, "has a list as video"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples(name, world, train, no_weights, tmp_path):
    entry, message = BAD[name]
    data = tmp_path / "bad.json"
    data.write_text(json.dumps([GOOD, entry, GOOD]))
    with pytest.raises(Ego2ExoError, match=f"(?s)1 fault.*bad.json.*{message}"):
        train(tmp_path / "out", data_path=data)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[]"])
def test_no_training_json(text, world, train, no_weights, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(Ego2ExoError, match="bad.json.*JSON list of samples.*What to do"):
        train(tmp_path / "out", data_path=tmp_path / "bad.json")


def test_a_jsonl_file_is_not_read_alone(world, train, no_weights, tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps(GOOD))
    with pytest.raises(Ego2ExoError, match="d.jsonl is not read by this llava.*one .json file"):
        train(tmp_path / "out", data_path=tmp_path / "d.jsonl")


def test_several_files(flavour, world, train, no_weights, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps([{}]))
    fault = "2 fault" if flavour == "next" else "is not read by this llava"
    with pytest.raises(Ego2ExoError, match=fault):
        train(tmp_path / "out", data_path=tmp_path / "{a,b}.json")


def test_many_bad_samples_are_counted(world, train, no_weights, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps([{}] * 9))
    with pytest.raises(Ego2ExoError, match="9 fault.*and 4 more"):
        train(tmp_path / "out", data_path=tmp_path / "bad.json")


def test_images_without_visual_tokens(world, train, no_weights, tmp_path):
    from PIL import Image

    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    entry = {"image": "a.png", "conversations": GOOD["conversations"]}
    (tmp_path / "d.json").write_text(json.dumps([GOOD, entry]))
    flags = {"data_path": tmp_path / "d.json", "image_folder": tmp_path, "ego2exo_visual_tokens": False}
    with pytest.raises(Ego2ExoError, match="is an image, which --ego2exo_visual_tokens False leaves without"):
        train(tmp_path / "out", **flags)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_video_stops_the_run(workers, world, train, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(world.videos, folder)
    (folder / "broken.mp4").write_bytes(b"\0\0\0 ftypisom" + bytes(3000))
    (tmp_path / "d.json").write_text(json.dumps([GOOD, sample("broken.mp4", "no")]))
    with pytest.raises(Ego2ExoError, match="broken.mp4"):
        train(tmp_path / "out", data_path=tmp_path / "d.json", video_folder=folder, dataloader_num_workers=workers)
