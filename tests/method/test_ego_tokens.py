"""The ego tokens against the plain reference, and what training, loading and hosts ask of them."""

import math
import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.method.attention import CrossAttention
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens, EgoBranch
from llava_ego2exo.method.position_embedding import frame_embedding, position_embedding

from . import reference

BLOCKS = {"cross_attention": reference.cross_attention, "transformer": reference.transformer}
WIDTH, HEADS, TOKENS, PATCHES, LENGTHS = 24, 3, 4, 9, [2, 1, 3]
FORBIDDEN = ("norm", "lora_", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
FORBIDDEN += ("embed_tokens", "vision_tower")
both_blocks = pytest.mark.parametrize("block", BLOCKS)
every_block = pytest.mark.parametrize("block", [*BLOCKS, "encoder"])


def built(layers=(0, 1), strong=True, **options):
    module = EgoAdaptiveTokens(TOKENS, WIDTH, HEADS, layers, **options)
    if strong:  # attention far from uniform, biases other than 0
        for name, parameter in module.named_parameters():
            torch.nn.init.normal_(parameter, std=1.0 if name == "tokens" else WIDTH**-0.5)
    return module


def hidden(layers=2, lengths=LENGTHS, patches=PATCHES):
    return [torch.randn(sum(lengths), patches, WIDTH) for _ in range(layers)]


@pytest.mark.parametrize("attn, key_embedding", [("folded", "frame+position"), ("sdpa", "frame"), ("auto", "none")])
@both_blocks
def test_equals_the_reference_forward_and_backward(block, attn, key_embedding):
    module = built(block=block, attn=attn, key_embedding=key_embedding)
    states, add = [h.requires_grad_() for h in hidden()], None
    if key_embedding != "none":
        frame = torch.cat([frame_embedding(n, WIDTH, torch.device("cpu")) for n in LENGTHS])
        position = position_embedding(PATCHES, WIDTH, torch.device("cpu")) * ("position" in key_embedding)
        add = frame[:, None] + position
    weights = dict(module.named_parameters())
    got = module(states, LENGTHS)
    wanted = reference.read(BLOCKS[block], weights, (0, 1), states, LENGTHS, HEADS, add)
    assert got.shape == (len(LENGTHS), TOKENS, WIDTH)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    weight, leaves = torch.randn_like(got), [*weights.values(), *states]
    pairs = zip(*(torch.autograd.grad((out * weight).mean(), leaves) for out in (got, wanted)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_reads_the_chosen_layers_alone_and_from_a_mapping():
    module, states = built((1, 3)), hidden(5)
    got = module(states, LENGTHS)
    wanted = reference.read(reference.cross_attention, dict(module.named_parameters()), (1, 3), states, LENGTHS, HEADS)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(got, module({1: states[1], 3: states[3]}, LENGTHS))
    for layer in range(5):
        changed = [h + torch.randn_like(h) if i == layer else h for i, h in enumerate(states)]
        assert torch.equal(got, module(changed, LENGTHS)) is (layer not in (1, 3))


@pytest.mark.parametrize("key_embedding", ["none", "frame", "frame+position"])
def test_the_order_of_frames_and_patches_matters_with_an_embedding_only(key_embedding):
    module, states = built(key_embedding=key_embedding), hidden(lengths=[5])
    wanted, frames, patches = (module([h.flip(dims) for h in states], [5]) for dims in ((), 0, 1))
    assert torch.allclose(wanted, frames, atol=1e-5) is (key_embedding == "none")
    assert torch.allclose(wanted, patches, atol=1e-5) is (key_embedding != "frame+position")


def test_built_on_meta_then_loaded():
    module, states = built(block="transformer", key_embedding="frame+position"), hidden()
    with torch.device("meta"):
        empty = built(block="transformer", strong=False, key_embedding="frame+position")
    empty.reset_parameters(torch.Generator().manual_seed(0))
    assert empty.tokens.is_meta and not list(empty.buffers())
    empty.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(empty(states, LENGTHS), module(states, LENGTHS))


def test_state_dict_keys():
    attention = [f"{name}.{kind}" for name in ("q", "k", "v", "out") for kind in ("weight", "bias")]
    attention.remove("k.bias")
    plain = {"tokens", *(f"blocks.{i}.{key}" for i in (0, 1) for key in attention)}
    assert set(built((4, 7)).state_dict()) == plain
    others = [f"{name}.{kind}" for name in ("ln_attn", "ln_mlp", "mlp.0", "mlp.2") for kind in ("weight", "bias")]
    block = {"tokens", *(f"blocks.0.attn.{key}" for key in attention), *(f"blocks.0.{key}" for key in others)}
    assert set(built((4,), block="transformer").state_dict()) == block


@every_block
def test_no_name_is_one_that_hosts_match(block):
    module = built(block=block)
    names = [name for name, _ in module.named_modules()] + list(module.state_dict())
    assert not [name for name in names if any(part in name for part in FORBIDDEN)]


def check_start(module):
    assert module.tokens.std().item() == pytest.approx(0.02, rel=0.3) and module.tokens.mean().abs() < 0.01
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif ".ln_" in name:
            assert (parameter == 1).all(), name
        elif name != "tokens":
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.95 * bound < parameter.abs().max() <= bound, name


@every_block
def test_start_does_not_depend_on_init_functions_that_transformers_turns_off(block, monkeypatch):
    for name in ("zeros_", "ones_", "uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    torch.use_deterministic_algorithms(True)  # uninitialised memory is nan then
    try:
        module = built(block=block, strong=False)
    finally:
        torch.use_deterministic_algorithms(False)
    check_start(module)


@every_block
def test_reset_from_a_generator(block):
    one, two = built(block=block), built(block=block).bfloat16()
    state = torch.get_rng_state()
    one.reset_parameters(torch.Generator().manual_seed(5))
    two.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(mine.bfloat16(), theirs)
    check_start(one)


def test_states_that_do_not_fit_are_refused():
    module = built()
    for states, lengths, message in (
        (hidden(1), LENGTHS, r"layer 1.*\[0, 1\]"),
        ([h[..., :20] for h in hidden()], LENGTHS, r"layer 0 .*\(6, 9, 20\).*\(6, patches, 24\)"),
        (hidden(), [2, 3], r"\(6, 9, 24\).*\(5, patches, 24\)"),
        (hidden(), [6, 0], r"lengths \[6, 0\]"),
    ):
        with pytest.raises(Ego2ExoError, match=message):
            module(states, lengths)


@every_block
def test_no_videos_cost_no_operation_and_run_every_module(block):
    """Not even flash-attn is asked for; every module's own forward runs, as ZeRO-3 needs it; gradients are zeros."""
    module = built(block=block, attn="flash", key_embedding="frame+position", time_bias=block == "encoder")
    ran = []
    with torch.no_grad():
        module.tokens.fill_(math.nan)  # and no NaN comes out
    for name, child in module.named_modules():
        if not isinstance(child, torch.nn.ModuleList):
            child.register_forward_hook(lambda *_, name=name: ran.append(name))
    with FlopCounterMode(display=False) as counter:
        out = EgoBranch(module, torch.nn.Identity()).unused()
        (torch.ones(()) + out.sum()).backward()
    assert counter.get_total_flops() == 0 and out.numel() == 0 and out.shape[-1] == WIDTH
    assert set(ran) == {n for n, child in module.named_modules() if not isinstance(child, torch.nn.ModuleList)}
    assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())
    assert module({}, []).shape == (0, TOKENS, WIDTH)


def test_each_layer_is_asked_for_once_and_not_held():
    """What comes of a mapping that gives a layer away is gone when the next one is asked for."""

    class Once(dict):
        def __getitem__(self, layer):
            assert not [ref for ref in given if ref() is not None], "the layer before is still held"
            given.append(weakref.ref(states := torch.randn(1, PATCHES, WIDTH)))
            return states

    given = []
    with torch.no_grad():
        built((0, 1, 2))(Once.fromkeys(range(3)), [1])
    assert len(given) == 3 and not [ref for ref in given if ref() is not None]


@pytest.mark.parametrize("block, attn", [("cross_attention", "lean"), ("transformer", "sdpa")])
def test_read_again_in_backward_equals_bit_for_bit_and_keeps_nothing(block, attn):
    reader = built(block=block, attn="folded" if attn == "lean" else attn)
    branch, states = EgoBranch(reader, torch.nn.Linear(WIDTH, 8)), dict(enumerate(hidden()))
    for module in branch.modules():
        if isinstance(module, CrossAttention):
            module.keep_weights = False if attn == "lean" else None
    results, calls = [], []
    for again in (False, True):
        copies = {layer: h.clone() for layer, h in states.items()}
        held = [weakref.ref(h) for h in copies.values()]
        out = branch(copies, LENGTHS, again=(lambda: calls.append(1) or states) if again else None)
        del copies
        assert any(ref() is not None for ref in held) is not again
        assert not calls
        out.square().sum().backward()
        results.append([out, *(p.grad for p in branch.parameters())])
        branch.zero_grad()
    assert calls == [1]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
