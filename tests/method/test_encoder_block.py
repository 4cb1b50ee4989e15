"""The encoder block against the plain reference, and against encoders of transformers with the tokens as more rows."""

import copy
import weakref

import pytest
import torch
from torch import nn

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens
from llava_ego2exo.method.encoder_block import tower_layer
from llava_ego2exo.method.position_embedding import frame_embedding

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
        torch.nn.init.normal_(parameter, std=1.0 if name == "tokens" else WIDTH**-0.5)
    return module


def entering(lengths=LENGTHS):
    return [torch.randn(sum(lengths), 25, WIDTH) for _ in range(LAYERS)]


WAYS = {
    "folded": {"attn": "folded"},
    "lean": {"attn": "folded", "mlp": False},
    "sdpa": {"attn": "sdpa", "grid": (1, 2, 2)},
    "embedding": {"attn": "folded", "key_embedding": "frame"},
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
    added = torch.cat([frame_embedding(n, WIDTH, torch.device("cpu")) for n in LENGTHS])[:, None].expand(-1, 25, -1)
    added = added if "key_embedding" in WAYS[way] else None
    wanted = reference.encoder(weights, its, module.layers, states, LENGTHS, HEADS, module.grid, mlp, added)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    leaves = [*weights.values(), *(states[layer] for layer in module.reads)]
    if way == "some layers":  # a trained tower, which learns through the states
        found = torch.autograd.grad(got.sum(), list(tower.parameters()), allow_unused=True, retain_graph=True)
        assert not any(grad is not None for grad in found)
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


@pytest.mark.parametrize("tower_type", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("types", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_tower_of_another_type(tower_type, types, device):
    """Its weights are cast where they are used and stay as they are; the result is that of the rounded tower."""
    tower = random_tower().to(device, tower_type)
    rounded, states = copy.deepcopy(tower).float(), [h.to(device, tower_type) for h in entering()]
    module = built().to(device)
    wanted = module([h.float() for h in states], LENGTHS, tower=parts_of(rounded))
    wanted_grad = torch.autograd.grad(wanted.square().mean(), module.tokens)[0]
    if types == "bfloat16":
        module = module.bfloat16()
    with torch.autocast(device, torch.bfloat16, enabled=types == "autocast"):
        with torch.inference_mode():
            seen = module(states, LENGTHS, tower=parts_of(tower))
        got = module(states, LENGTHS, tower=parts_of(tower))
        assert torch.equal(got, seen)
        got.square().mean().backward()
    exact = 1e-2 if types == "float32" else 5e-2  # the norm of the states is in the tower's type
    for mine, theirs in ((got, wanted), (module.tokens.grad, wanted_grad)):
        assert (mine.float() - theirs).norm() < exact * theirs.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert {p.dtype for p in tower.parameters()} == {tower_type} and all(p.grad is None for p in tower.parameters())


def test_nothing_of_the_tower_is_stored_and_a_copy_equals():
    module, tower, states = built(), parts_of(random_tower()), entering()
    wanted = module(states, LENGTHS, tower=tower)
    keys = ["q.weight", "q.bias", "k.weight", "v.weight", "v.bias", "out.weight", "out.bias"]
    own = {"tokens", "time_shift", "time_sharpening", *(f"blocks.{i}.attn.{k}" for i in range(LAYERS) for k in keys)}
    assert module.state_dict().keys() == own and not any(isinstance(m, nn.LayerNorm) for m in module.modules())
    other = built()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(states, LENGTHS, tower=tower), wanted)


def test_states_are_let_go_once_normed():
    """Backward keeps their norm in their place; each is asked for once, the first for grid and layer."""

    class Once(dict):
        def __getitem__(self, layer):
            given.append(weakref.ref(states := self.pop(layer)))
            return states

    module, given = built(), []
    out = module(Once(enumerate(entering())), LENGTHS, tower=parts_of(random_tower()))
    assert len(given) == LAYERS and not [ref for ref in given if ref() is not None]
    out.sum().backward()


def test_starts_at_its_place_in_time():
    """Without a grid too, as with the default one for so many tokens; small steps are not lost in bfloat16."""
    for count, grid, centres, sharpness in (
        (8, (2, 2, 2), [0.25] * 4 + [0.75] * 4, 4),
        (3, None, [1 / 6, 0.5, 5 / 6], 6),
    ):
        module = EgoAdaptiveTokens(count, WIDTH, HEADS, (0,), "encoder", grid=grid, time_bias=True).bfloat16()
        nn.init.normal_(module.time_shift)
        module.reset_parameters(torch.Generator().manual_seed(0))
        (found,) = module._time_scores([5])
        wanted = -(((torch.arange(5) + 0.5) / 5 - torch.tensor(centres)[:, None]) * sharpness).square()
        torch.testing.assert_close(found, wanted)
        with torch.no_grad():
            module.time_shift += 1e-4
            module.time_sharpening += 1e-4
        assert not torch.equal(module._time_scores([5])[0], found)


def test_the_order_of_frames_matters_by_time_alone():
    tower, states = parts_of(random_tower()), entering([4])
    for options in ({"time_bias": True}, {"grid": (4, 1, 1), "time_bias": False}, {"grid": None, "time_bias": False}):
        module = built(**{"grid": None, **options})
        if module.time_bias:
            nn.init.normal_(module.time_shift)  # away from the middle, where all four start
        same = torch.allclose(
            module(states, [4], tower=tower), module([h.flip(0) for h in states], [4], tower=tower), atol=1e-5
        )
        assert same is (not module.time_bias and module.grid is None)


def test_what_is_refused():
    from transformers import Dinov2Config, Dinov2Model

    module, states = built(attn="flash"), entering()
    with pytest.raises(Ego2ExoError, match="flash.*time bias"):
        module(states, LENGTHS, tower=parts_of(random_tower()))
    with pytest.raises(Ego2ExoError, match="without the encoder's layers"):
        module(states, LENGTHS)
    with pytest.raises(Ego2ExoError, match="24 patches"):
        module([h[:, 1:] for h in states], LENGTHS, tower=parts_of(random_tower()))
    dino = Dinov2Model(Dinov2Config(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS))
    with pytest.raises(Ego2ExoError, match="layer_scale1.*cross_attention or transformer"):
        tower_layer(dino.encoder.layer[0])


def test_the_parts_of_a_vit():
    from transformers import ViTConfig, ViTModel

    sizes = {**SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tower = ViTModel(ViTConfig(**sizes)).eval().requires_grad_(False)
    layer = tower.encoder.layer[0]
    parts, module = tower_layer(layer), EgoAdaptiveTokens(4, WIDTH, HEADS, (0,), "encoder")
    module.copy_attention([parts])
    h = torch.randn(1, 1, WIDTH)
    got = module([h], [1], tower=[parts])
    middle = module.tokens + layer.attention(layer.layernorm_before(h))[0][0]  # of one patch alone: its value
    torch.testing.assert_close(got[0], layer.output(layer.intermediate(layer.layernorm_after(middle)), middle))
