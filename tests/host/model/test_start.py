"""Where training starts: the encoder's attention and the base's projector copied, or fresh weights."""

import copy

import pytest
import torch

from ..models import branch_of, build, model_args

pytestmark = pytest.mark.usefixtures("registered")
TOKENS = "ego_tokens.reader.tokens"  # which `build` scales
COPIED = {"ego2exo_init": "encoder"}


def is_a_copy(model) -> bool:
    """Whether Projector_ego equals the ordinary projector, and every block's attention its encoder layer's."""
    projector, branch = model.get_model().mm_projector, branch_of(model)
    pairs = [(value, projector.state_dict()[name]) for name, value in branch.projector.state_dict().items()]
    layers = model.get_vision_tower().vision_tower.vision_model.encoder.layers
    for number, block in zip(branch.reader.layers, branch.reader.blocks, strict=True):
        for name in ("q", "k", "v", "out"):
            mine, its = (
                getattr(block if hasattr(block, "q") else block.attn, name),
                getattr(layers[number].self_attn, f"{name}_proj"),
            )
            pairs.append((mine.weight, its.weight))
            pairs += [(mine.bias, its.bias)] if name != "k" else []
    equal = {torch.equal(mine, its) for mine, its in pairs if mine.ndim == 2}  # biases start at 0 in both
    assert len(equal) == 1  # all or none
    assert equal == {False} or all(torch.equal(mine, its) for mine, its in pairs)
    return equal == {True}


@pytest.mark.parametrize("block", ["cross_attention", "transformer", "encoder", "constant"])
def test_copied_or_fresh(block):
    assert is_a_copy(build(ego2exo_block=block, ego2exo_layers="0,2" if block == "transformer" else "all", **COPIED))
    assert not is_a_copy(build(ego2exo_block=block, ego2exo_init="random"))


def test_from_a_projector_file(tmp_path):
    """The copy is that of the loaded projector; a file that has ego tokens is taken as it is."""
    stock, own = build(ego=False), build(ego2exo_block="encoder")
    with torch.no_grad():
        for model in (stock, own):
            for parameter in model.get_model().mm_projector.parameters():
                parameter.normal_()
    for model in (stock, own):
        weights = model.get_model().mm_projector.state_dict()
        torch.save({f"model.mm_projector.{name}": value for name, value in weights.items()}, tmp_path / "p.bin")
        loaded = build(ego2exo_block="encoder", pretrain_mm_mlp_adapter=str(tmp_path / "p.bin"), **COPIED)
        found = loaded.get_model().mm_projector.state_dict()
        assert is_a_copy(loaded) is (model is stock)
        assert all(torch.equal(found[name], value) for name, value in weights.items() if name != TOKENS)


def test_trained_tokens_are_not_started_again():
    model = build(ego2exo_block="encoder")
    before = copy.deepcopy(branch_of(model).state_dict())
    model.get_model().initialize_vision_modules(
        model_args(None, ego2exo=True, ego2exo_num_tokens=3, ego2exo_block="encoder", **COPIED)
    )
    assert all(torch.equal(value, before[name]) for name, value in branch_of(model).state_dict().items())
