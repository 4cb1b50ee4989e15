"""Checkpoints that a command cannot use are refused at once, by every command alike."""

import json
import shutil

import pytest

import llava_ego2exo
from llava_ego2exo.cli import main
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference.settings import InferenceOptions, resolve_inference_settings
from llava_ego2exo.host.merge import merge


@pytest.fixture
def lora(world, tmp_path):
    """What marks a LoRA folder, beside the config of its base."""
    folder = tmp_path / "lora"
    shutil.copytree(world.base(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "the/base"}')
    return folder


def test_a_class_that_llava_torch_lacks(flavour, world, train, no_weights, tmp_path, capsys):
    if flavour == "next":
        pytest.skip("LLaVA-NeXT has them all")
    from llava.model.builder import load_pretrained_model

    qwen = shutil.copytree(world.base(), tmp_path / "qwen")
    stored = json.loads((qwen / "config.json").read_text())
    hub = {"model_type": "llava", "architectures": ["LlavaQwenForCausalLM"]}
    for names in ({"model_type": "llava_qwen"}, hub, {"model_type": "qwen2", "mm_projector_type": "linear"}):
        (qwen / "config.json").write_text(json.dumps({**stored, **names}))
        for use in (
            lambda: load_pretrained_model(str(qwen), None, "x"),
            lambda: llava_ego2exo.ask(str(qwen), str(world.videos / "00_red_left.mp4"), "?"),
            lambda: resolve_inference_settings(str(qwen), None, InferenceOptions()),  # of `teach` and `eval`
            lambda: train(tmp_path / "out", model_name_or_path=qwen),
            lambda: train(tmp_path / "out", ego2exo_kd_weight=1.0, ego2exo_teacher=qwen),
        ):
            with pytest.raises(Ego2ExoError) as error:
                use()
            assert str(qwen) in error.value.given and "LLaVA-NeXT" in error.value.remedy
        assert main(["plan", "--model", str(qwen)]) == 1
        assert "LLaVA-NeXT" in capsys.readouterr().err


def test_a_lora_folder_where_a_whole_model_is_read(lora, world, no_weights, registered, tmp_path, capsys):
    """What to do instead fits the command."""
    other, whole = shutil.copytree(lora, tmp_path / "other"), str(world.base())
    for adapter, base, given, remedy in (
        (lora, lora, "as its own base", "the/base as --base"),
        (other, lora, "LoRA adapter", f"merge {lora} --base the/base"),
        (whole, whole, "nothing to merge", "load it as it is"),
        (whole, lora, "nothing to merge", "order"),
    ):
        with pytest.raises(Ego2ExoError) as error:
            merge(str(adapter), str(base), str(tmp_path / "out"))
        assert given in error.value.given and remedy in error.value.remedy and "train" not in error.value.remedy
    assert main(["plan", "--model", str(lora)]) == 1
    shown = capsys.readouterr().err
    assert "LoRA adapter" in shown and "--model the/base" in shown and "--output_dir" not in shown
    assert not list(tmp_path.glob("out*"))
