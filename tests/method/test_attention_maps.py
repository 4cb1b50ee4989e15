"""Attention maps against a plain softmax and against torch's own weights."""

import math

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.method.attention import CrossAttention
from llava_ego2exo.method.attention_maps import attention_maps, attention_weights, recorded
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens, frame_embedding, position_embedding

from . import reference

WIDTH, HEADS, TOKENS, PATCHES, LENGTHS = 24, 3, 4, 9, [2, 1, 3]
BLOCKS = {"cross_attention": reference.cross_attention, "transformer": reference.transformer}
every_block = pytest.mark.parametrize("block", BLOCKS)
every_embedding = pytest.mark.parametrize("key_embedding", ["none", "frame+position"])


def built(layers=(0, 1, 3), **options):
    module = EgoAdaptiveTokens(TOKENS, WIDTH, HEADS, layers, **options)
    for name, parameter in module.named_parameters():  # attention far from uniform, biases other than 0
        torch.nn.init.normal_(parameter, std=1.0 if name == "tokens" else WIDTH**-0.5)
    return module


def hidden():
    return [torch.randn(sum(LENGTHS), PATCHES, WIDTH) for _ in range(4)]


def softmax_by_hand(weights, tokens, keys):
    """One video: tokens (P, D), keys (frames, patches, D) -> (H, P, frames, patches), head by head."""
    width, shares = WIDTH // HEADS, []
    for head in range(HEADS):
        rows = slice(head * width, (head + 1) * width)
        query = tokens @ weights["q.weight"][rows].T + weights["q.bias"][rows]
        key = keys.flatten(0, 1) @ weights["k.weight"][rows].T
        grown = torch.exp(query @ key.T / math.sqrt(width))
        shares.append((grown / grown.sum(1, keepdim=True)).unflatten(1, keys.shape[:2]))
    return torch.stack(shares)


def maps_by_hand(module, block, states, add):
    """A video: (layers, H, P, frames, patches), the tokens of each layer made by the plain reference."""
    result, weights = [], dict(module.named_parameters())
    for video, length in enumerate(LENGTHS):
        first = sum(LENGTHS[:video])
        tokens, rows = weights["tokens"], []
        for number, layer in enumerate(module.layers):
            prefix = f"blocks.{number}."
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            frames = states[layer][first : first + length]
            extra = add[:length] if add is not None else 0.0
            asked, inner = tokens, own
            if block == "transformer":
                asked = reference.layer_norm(own, "ln_attn", tokens)
                inner = {k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")}
            rows.append(softmax_by_hand(inner, asked, frames + extra))
            tokens = BLOCKS[block](own, tokens, frames, HEADS, None if add is None else add[:length])
        result.append(torch.stack(rows))
    return result


def added(key_embedding):
    if key_embedding == "none":
        return None
    frame = frame_embedding(max(LENGTHS), WIDTH, torch.device("cpu"))[:, None]
    return frame + position_embedding(PATCHES, WIDTH, torch.device("cpu")) * ("position" in key_embedding)


@every_embedding
@every_block
def test_equals_a_softmax_by_hand_layer_by_layer(block, key_embedding):
    module, states = built(block=block, key_embedding=key_embedding), hidden()
    wanted = maps_by_hand(module, block, states, added(key_embedding))
    heads = attention_maps(module, states, LENGTHS, per_head=True)
    means = attention_maps(module, states, LENGTHS)
    assert [m.shape for m in means] == [(3, TOKENS, length, PATCHES) for length in LENGTHS]
    for mine, theirs, mean in zip(heads, wanted, means, strict=True):
        assert mine.shape == (3, HEADS, TOKENS, *theirs.shape[-2:])
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mean, theirs.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mean.sum((-1, -2)), torch.ones(3, TOKENS))
    assert (means[0][0] - means[0][1]).abs().max() > 1e-2  # the layers do differ


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


@every_block
def test_the_weights_are_those_that_made_the_output(block):
    """Values weighted by the maps give what the last layer's attention returned."""
    module, states, seen = built(block=block), hidden(), []
    last = [m for m in module.modules() if isinstance(m, CrossAttention)][-1]
    last.register_forward_hook(lambda m, args, out: seen.append(out))
    maps = attention_maps(module, states, LENGTHS, per_head=True)
    values = last.v(states[3]).unflatten(-1, (HEADS, -1)).split(LENGTHS)
    heads = [torch.einsum("hpfn,fnhd->phd", m[-1], v).flatten(1) for m, v in zip(maps, values, strict=True)]
    torch.testing.assert_close(last.out(torch.stack(heads)), seen[0], atol=1e-5, rtol=1e-4)


@every_embedding
@every_block
def test_the_path_does_not_matter_and_the_run_is_untouched(block, key_embedding):
    module, states = built(block=block, key_embedding=key_embedding), hidden()
    results = []
    for attn in ("folded", "sdpa", "auto"):
        module.set_attn(attn)
        alone = module(states, LENGTHS)
        with recorded(module) as record:
            assert torch.equal(module(states, LENGTHS), alone)
        results.append(record.maps())
        assert not any(m._forward_pre_hooks for m in module.modules())
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_half_precision_states_of_another_dtype_and_no_video():
    module, states = built().bfloat16(), hidden()
    maps = attention_maps(module, states, LENGTHS)
    assert all(m.dtype == torch.float32 and not m.requires_grad for m in maps)
    for mine in maps:
        torch.testing.assert_close(mine.sum((-1, -2)), torch.ones(3, TOKENS))
    assert attention_maps(module, [torch.randn(0, PATCHES, WIDTH)] * 4, []) == []


def test_hooks_are_gone_after_an_error():
    module = built()
    with pytest.raises(Ego2ExoError, match="hidden states of layer 0 have shape"):
        attention_maps(module, hidden(), [1])
    assert not any(m._forward_pre_hooks for m in module.modules())
