"""Attention maps against a plain softmax and against torch's own weights."""

import pytest
import torch

from llava_ego2exo.method.attention import CrossAttention
from llava_ego2exo.method.attention_maps import attention_maps, attention_weights, recorded
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens

WIDTH, HEADS, TOKENS, PATCHES, LENGTHS = 24, 3, 4, 9, [2, 1, 3]
every_block = pytest.mark.parametrize("block", ["cross_attention", "transformer"])
every_embedding = pytest.mark.parametrize("key_embedding", ["none", "frame+position"])


def built(layers=(0, 1, 3), **options):
    module = EgoAdaptiveTokens(TOKENS, WIDTH, HEADS, layers, **options)
    for name, parameter in module.named_parameters():  # attention far from uniform, biases other than 0
        torch.nn.init.normal_(parameter, std=1.0 if name == "tokens" else WIDTH**-0.5)
    return module


def hidden():
    return [torch.randn(sum(LENGTHS), PATCHES, WIDTH) for _ in range(4)]


def test_equals_torchs_own_weights():
    torch.manual_seed(0)
    module, theirs = CrossAttention(WIDTH, HEADS), torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([module.q.weight, module.k.weight, module.v.weight]))
        theirs.in_proj_bias.zero_()
    tokens, states = torch.randn(1, TOKENS, WIDTH), torch.randn(2, PATCHES, WIDTH)
    keys = states.flatten(0, 1)[None]
    _, wanted = theirs(tokens, keys, keys, need_weights=True, average_attn_weights=False)
    (got,) = attention_weights(module, tokens, states, [2])
    torch.testing.assert_close(got.flatten(2), wanted[0], atol=1e-6, rtol=1e-5)


@every_embedding
@every_block
def test_the_weights_are_those_that_made_the_output(block, key_embedding):
    """Values weighted by the maps give what each layer's attention returned."""
    options = {"key_embedding": key_embedding, "time_bias": key_embedding != "none"}
    module, states, seen = built(block=block, **options), hidden(), []
    layers = [m for m in module.modules() if isinstance(m, CrossAttention)]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: seen.append(out))
    maps = attention_maps(module, states, LENGTHS, per_head=True)
    means = attention_maps(module, states, LENGTHS)
    for index, (layer, number) in enumerate(zip(layers, (0, 1, 3), strict=True)):
        values = layer.v(states[number]).unflatten(-1, (HEADS, -1)).split(LENGTHS)
        heads = [torch.einsum("hpfn,fnhd->phd", m[index], v).flatten(1) for m, v in zip(maps, values, strict=True)]
        torch.testing.assert_close(layer.out(torch.stack(heads)), seen[index], atol=1e-5, rtol=1e-4)
    for mine, mean, length in zip(maps, means, LENGTHS, strict=True):
        assert mine.shape == (3, HEADS, TOKENS, length, PATCHES)
        torch.testing.assert_close(mean, mine.mean(1))
        torch.testing.assert_close(mean.sum((-1, -2)), torch.ones(3, TOKENS))


@every_embedding
@every_block
def test_the_path_does_not_matter_and_the_run_is_untouched(block, key_embedding):
    module, states = built(block=block, key_embedding=key_embedding), hidden()
    wanted = attention_maps(module, states, LENGTHS)
    for attn in ("sdpa", "auto"):
        module.set_attn(attn)
        alone = module(states, LENGTHS)
        with recorded(module) as layers:
            assert torch.equal(module(states, LENGTHS), alone)
        assert not any(m._forward_pre_hooks for m in module.modules())
        for mine, *theirs in zip(wanted, *layers, strict=True):
            torch.testing.assert_close(mine, torch.stack(theirs), atol=1e-6, rtol=1e-4)
