"""Ego tokens on every vision tower LLaVA can build, and a clear refusal of those that hide their layers."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from llava_ego2exo.demo.models import tiny_tower
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.vision import inspect_tower

from ..models import Batch, branch_of, build, check_rows, clip_folder, ego_grads, is_next

pytestmark = pytest.mark.usefixtures("registered")
next_only = pytest.mark.skipif(not is_next(), reason="llava-torch builds CLIP towers alone")


def facts_of(model) -> tuple[int, int, int]:
    config = model.config
    return config.ego2exo_vision_layers, config.ego2exo_vision_width, config.ego2exo_vision_heads


def train_a_step(model):
    """Ego rows where they belong, then one backward through all of them."""
    batch = Batch("....V..", "......")
    check_rows(model, batch)
    loss = model(**batch.call()).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, grad in ego_grads(model).items():
        assert grad is not None and grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.get_vision_tower().parameters())


def test_chosen_layers():
    model = build(ego2exo_layers="0,2", ego2exo_block="cross_attention")
    assert branch_of(model).reader.layers == (0, 2) and facts_of(model) == (4, 32, 4)
    train_a_step(model)
    with pytest.raises(Ego2ExoError, match="--ego2exo_layers '4' .*4 layers"):
        build(ego2exo_layers="4", ego2exo_block="cross_attention")


def siglip_folder(root: Path) -> Path:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 1152, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 16}
    config = SiglipVisionConfig(**sizes, image_size=384, patch_size=14)
    SiglipVisionModel(config).save_pretrained(root)
    parts = {"vision_config": config.to_dict(), "text_config": {}}  # as the hub's folder says it
    (root / "config.json").write_text(json.dumps({"model_type": "siglip", **parts}))
    return root


blocks = pytest.mark.parametrize("block", ["cross_attention", "encoder"])


@next_only
@blocks
def test_siglip_in_a_local_folder(block, tmp_path):
    """LLaVA deletes the last layer: the layers that exist count, not those of the config."""
    model = build(tower=siglip_folder(tmp_path / "tower"), ego2exo_block=block)
    tower = model.get_vision_tower()
    assert type(tower).__name__ == "SigLipVisionTower" and tower.vision_tower.config.num_hidden_layers == 3
    assert facts_of(model) == (2, 1152, 16) and len(branch_of(model).reader.blocks) == 2
    model(**Batch("..V..", size=384, frames=1).call()).loss.backward()
    assert all(grad is not None and grad.any() for grad in ego_grads(model).values())


@next_only
@blocks
def test_mlcd(block):
    """LLaVA takes MLCD by its hub name alone; the hub's answer is a tiny one."""
    from llava.model.multimodal_encoder import mlcd_encoder
    from llava.model.multimodal_encoder.mlcd.vit_rope2d_hf import MLCDVisionConfig, MLCDVisionModel

    # Heads of width 8: the rotary embedding takes a quarter of a head for each side.
    config = MLCDVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcd_encoder.MLCDVisionModel, "from_pretrained", lambda *_, **__: MLCDVisionModel(config))
        patch.setattr(mlcd_encoder.CLIPImageProcessor, "from_pretrained", lambda *_, **__: None)
        model = build(tower="DeepGlint-AI/mlcd-vit-bigG-patch14-448", ego2exo_block=block)
    assert type(model.get_vision_tower()).__name__ == "MLCDVisionTower"
    assert facts_of(model) == (3, 32, 4)
    train_a_step(model)


def dino_folder(root: Path) -> Path:
    from transformers import CLIPImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(root)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(root)
    return root


@next_only
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="with CUDA LLaVA puts this tower there; the models are on the CPU"
)
def test_a_hugging_face_tower(tmp_path):
    for folder, layers in ((clip_folder(), 4), (dino_folder(tmp_path / "dino"), 3)):
        model = build(tower=f"hf:{folder}", ego2exo_block="cross_attention", ego2exo_init="random")
        assert type(model.get_vision_tower()).__name__ == "HFVisionTower"
        assert facts_of(model) == (layers, 32, 4)
        assert model.get_vision_tower().dtype == torch.bfloat16
        train_a_step(model)
    train_a_step(build(tower=f"hf:{clip_folder()}"))
    for flags in ({}, {"ego2exo_block": "cross_attention"}):
        with pytest.raises(Ego2ExoError, match="layer_scale1"):
            build(tower=f"hf:{tmp_path / 'dino'}", **flags)
    model.get_vision_tower().load_model(device_map="auto")
    assert nn.Module.to.__qualname__ == "Module.to"  # itself again


@next_only
def test_joined_layers_widen_the_projector_not_the_ego_tokens(tmp_path):
    flags = {"mm_vision_select_feature": "slicefour_patch", "ego2exo_block": "cross_attention"}
    model = build(tower=tiny_tower(tmp_path / "deep", layers=12), ego2exo_init="random", **flags)
    assert model.config.mm_hidden_size == model.get_model().mm_projector[0].in_features == 4 * 32
    assert facts_of(model) == (12, 32, 4)
    assert branch_of(model).projector[0].in_features == 32
    train_a_step(model)
    with pytest.raises(Ego2ExoError, match="--ego2exo_init encoder .*one layer"):
        build(tower=tmp_path / "deep", **flags)


def test_towers_that_tile_or_hide_their_layers_are_refused():
    """By name; the real ones need packages of their own, and a download."""
    several, hidden = (type(name, (nn.Module,), {})() for name in ("CLIPVisionTowerS2", "OpenCLIPVisionTower"))
    hidden.vision_tower = nn.Sequential(nn.Linear(4, 4))  # neither an encoder with layers nor a config
    for tower, message in ((several, "CLIPVisionTowerS2 .*--s2 False"), (hidden, "OpenCLIPVisionTower .*CLIP, SigLIP")):
        with pytest.raises(Ego2ExoError, match=message):
            inspect_tower(tower)
