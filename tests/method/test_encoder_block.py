"""The encoder block against the plain reference, and against encoders of transformers with the tokens as more rows."""

import pytest
import torch

from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens
from llava_ego2exo.method.encoder_block import tower_layer

from . import reference

WIDTH, HEADS, LAYERS, LENGTHS = 24, 3, 3, [2, 1, 5]
SIZES = {"hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
SIZES |= {"image_size": 20, "patch_size": 4, "layer_norm_eps": 1e-6}


def random_tower(kind="clip"):
    """A frozen CLIP or SigLIP encoder with every weight random, norms and biases included."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    config, model = {"clip": (CLIPVisionConfig, CLIPVisionModel), "siglip": (SiglipVisionConfig, SiglipVisionModel)}[
        kind
    ]
    tower = model(config(**SIZES)).eval().requires_grad_(False)
    for name, parameter in tower.named_parameters():
        around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, around, 0.3 if "norm" in name or parameter.ndim == 1 else WIDTH**-0.5)
    return tower


def parts_of(tower):
    return [tower_layer(layer) for layer in tower.vision_model.encoder.layers]


def built(layers=range(LAYERS), grid=(2, 2, 1), **options):
    options = {"time_bias": True, "grid": grid, **options}
    module = EgoAdaptiveTokens(4, WIDTH, HEADS, layers, "encoder", **options)
    for name, parameter in module.named_parameters():
        if "time" not in name:
            torch.nn.init.normal_(parameter, std=1.0 if name == "tokens" else WIDTH**-0.5)
    return module


def entering(lengths=LENGTHS):
    return [torch.randn(sum(lengths), 25, WIDTH) for _ in range(LAYERS)]


WAYS = {
    "folded": {"attn": "folded"},
    "lean": {"attn": "folded", "mlp": False},
    "sdpa": {"attn": "sdpa", "grid": (1, 2, 2)},
    "alone": {"grid": None, "time_bias": False},
    "some layers": {"layers": (1, 2), "grid": (4, 1, 1)},
}


@pytest.mark.parametrize("way", WAYS)
def test_equals_the_reference_forward_and_backward(way):
    module, tower = built(**WAYS[way]), random_tower().requires_grad_(way == "some layers")
    for block in module.blocks:
        block.attn.keep_weights = way != "lean"
    states = [h.requires_grad_() for h in entering()]
    weights, its = (
        dict(module.named_parameters()),
        [dict(x.named_parameters()) for x in tower.vision_model.encoder.layers],
    )
    got = module(states, LENGTHS, tower=parts_of(tower))
    mlp = WAYS[way].get("mlp", True)
    wanted = reference.encoder(weights, its, module.layers, states, LENGTHS, HEADS, module.grid, mlp)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    leaves = [*weights.values(), *(states[layer] for layer in module.reads)]
    if way == "some layers":  # a trained tower
        used = [tower.vision_model.encoder.layers[layer] for layer in module.layers]
        leaves += [p for layer in used for name, p in layer.named_parameters() if "self_attn" not in name]
    weight = torch.randn_like(got)
    pairs = zip(*(torch.autograd.grad((out * weight).mean(), leaves) for out in (got, wanted)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_untrained_tokens_are_rows_of_the_encoder_that_no_patch_sees(kind):
    """They see patches alone, of one frame, where the time bias is the same for all."""
    tower, module = random_tower(kind), built(grid=(1, 2, 2))
    module.copy_attention(parts_of(tower))
    vision, pixels = tower.vision_model, torch.randn(1, 3, 20, 20)
    h = tower(pixels, output_hidden_states=True).hidden_states
    first = h[0].shape[1] - 25
    got = module([x[:, first:] for x in h], [1], tower=parts_of(tower))
    rows = torch.cat([h[0], reference.cell_means(h[0][:, first:], (1, 2, 2))[None] + module.tokens], dim=1)
    hidden = torch.zeros(rows.shape[1], rows.shape[1])
    hidden[:, -4:] = hidden[-4:, :first] = -torch.inf
    for number, layer in enumerate(vision.encoder.layers):
        torch.testing.assert_close(rows[:, :-4], h[number], atol=1e-5, rtol=1e-5)  # patches as without tokens
        rows = layer(rows, hidden[None, None], *([None] if kind == "clip" else []))[0]
    torch.testing.assert_close(got, rows[:, -4:], atol=1e-5, rtol=1e-4)
