"""Every path of the cross-attention against the plain reference: forward, gradients, dtypes, choice of path."""

import sys
import types

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.method import attention
from llava_ego2exo.method.attention import CrossAttention, KeyEmbedding, compute_dtype, resolve

from . import reference

PATHS = ("folded", "lean", "sdpa", "flash")  # lean: folded, keeping the states alone
WIDTH, HEADS, TOKENS, PATCHES = 24, 3, 5, 6


def plain_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k):
    """What flash_attn_varlen_func computes, sequence by sequence, with its demands on the arguments."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert (cu_seqlens_q.diff().max(), cu_seqlens_k.diff().max()) == (max_seqlen_q, max_seqlen_k)
    assert (cu_seqlens_q[-1], cu_seqlens_k[-1]) == (q.shape[0], k.shape[0])
    assert q.dtype == k.dtype == v.dtype and k.shape == v.shape and q.shape[1:] == k.shape[1:]
    out = []
    for i in range(len(cu_seqlens_q) - 1):
        asked, seen = slice(cu_seqlens_q[i], cu_seqlens_q[i + 1]), slice(cu_seqlens_k[i], cu_seqlens_k[i + 1])
        scores = torch.einsum("qhd,khd->hqk", q[asked], k[seen]).float() / q.shape[-1] ** 0.5
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1).to(v.dtype), v[seen]))
    return torch.cat(out)


@pytest.fixture
def fake_flash(monkeypatch):
    """A flash-attn in plain torch that also runs on the CPU; gives the list of its calls."""
    calls = []
    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = lambda *args: calls.append(args) or plain_varlen(*args)
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(attention, "_flash_device", lambda tensor: True)
    return calls


@pytest.fixture
def no_flash(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # its import fails


def inputs(lengths, patches=PATCHES, tokens=TOKENS, width=WIDTH):
    states = torch.randn(sum(lengths), patches, width, requires_grad=True)
    return torch.randn(len(lengths), tokens, width, requires_grad=True), states


def built(attn, width=WIDTH, heads=HEADS):
    module = CrossAttention(width, heads, "folded" if attn == "lean" else attn)
    module.keep_weights = False if attn == "lean" else None
    for parameter in module.parameters():  # biases other than 0, or their use goes unseen
        torch.nn.init.normal_(parameter, std=width**-0.5)
    return module


def embedding(frames, patches=PATCHES, width=WIDTH, kind="frame+position"):
    frame = torch.randn(frames, width) if "frame" in kind else None
    return KeyEmbedding(frame, torch.randn(patches, width) if "position" in kind else None)


def added(extra, lengths, patches=PATCHES):
    """The embedding as it is added to the states: (sum of lengths, patches, D)."""
    frame = torch.zeros(max(lengths), WIDTH) if extra.frame is None else extra.frame
    position = torch.zeros(patches, WIDTH) if extra.position is None else extra.position
    return torch.cat([frame[:n] for n in lengths])[:, None] + position


def plain(module, tokens, states, lengths, add=None):
    weights = dict(module.named_parameters())
    return reference.videos(reference.cross_attention, weights, tokens, states, lengths, module.num_heads, add)


def gradients(module, out, *leaves):
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return torch.autograd.grad((out.float() * weight).sum(), [*module.parameters(), *leaves])


def relative(got, wanted):
    return ((got.float() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_the_reference_forward_and_backward(path, fake_flash):
    lengths = [2, 1, 4]
    module, (tokens, states) = built(path), inputs(lengths)
    got, wanted = module(tokens, states, lengths), plain(module, tokens, states, lengths)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    pairs = zip(gradients(module, got, tokens, states), gradients(module, wanted, tokens, states), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert len(fake_flash) == (path == "flash")  # one call for all videos


@pytest.mark.parametrize("path", PATHS)
def test_key_embedding_is_added_to_the_keys_alone(path, fake_flash):
    lengths = [2, 4, 1]
    for kind in ("frame", "frame+position"):
        module, (tokens, states), extra = built(path), inputs(lengths), embedding(4, kind=kind)
        got = module(tokens, states, lengths, extra)
        wanted = plain(module, tokens, states, lengths, added(extra, lengths))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        pairs = zip(gradients(module, got, states), gradients(module, wanted, states), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("path", PATHS)
def test_bfloat16_stays_within_a_hundredth(path, mean, fake_flash):
    """Forward, and the gradients of everything; with a mean as large as encoders' states have, in the folded forms."""
    if mean and path in ("sdpa", "flash"):
        pytest.skip("torch's own attention takes the slopes' centre from rounded numbers: tens of hundredths off")
    lengths = [2, 3]
    module, (tokens, states) = built(path, width=96).bfloat16(), inputs(lengths, patches=25, width=96)
    tokens = tokens.detach().bfloat16().requires_grad_()
    states = (states.detach() + mean * torch.randn(96)).bfloat16().requires_grad_()
    got = module(tokens, states, lengths)
    assert got.dtype == torch.bfloat16
    weight = torch.rand(got.shape).bfloat16().float()
    mine = torch.autograd.grad((got.float() * weight).sum(), [*module.parameters(), tokens, states])
    tokens, states = (x.detach().float().requires_grad_() for x in (tokens, states))
    wanted = plain(module.float(), tokens, states, lengths)
    theirs = torch.autograd.grad((wanted * weight).sum(), [*module.parameters(), tokens, states])
    assert relative(got, wanted) < 1e-2
    names = [*dict(module.named_parameters()), "tokens", "states"]
    for name, one, other in zip(names, mine, theirs, strict=True):
        assert relative(one, other) < (2e-2 if mean else 1e-2), name


@pytest.mark.parametrize("dtype, path", [(torch.float16, "lean"), *((torch.bfloat16, path) for path in PATHS)])
def test_autocast_and_half_precision_run_forward_and_backward(path, dtype, fake_flash):
    lengths = [2, 3]
    module, (tokens, states), extra = built(path), inputs(lengths), embedding(3)
    wanted = plain(module, tokens, states, lengths, added(extra, lengths))
    with torch.autocast("cpu", dtype):
        got = module(tokens, states, lengths, extra)
        assert got.dtype == compute_dtype(tokens) == dtype
    limit = 2e-2 if dtype == torch.bfloat16 else 4e-3  # autocast rounds weights and inputs too, the reference neither
    assert relative(got, wanted) < limit
    for mine, theirs in zip(gradients(module, got, tokens), gradients(module, wanted, tokens), strict=True):
        assert mine.dtype == torch.float32 and relative(mine, theirs) < 2 * limit
    with torch.no_grad():
        half = module.to(dtype)(tokens.to(dtype), states.to(dtype), lengths)
    assert half.dtype == dtype and not half.requires_grad and half.isfinite().all()


def test_auto_folds_by_count(no_flash):
    for tokens, heads, width, folded in ((16, 16, 1152, True), (77, 16, 1152, False), (8, 4, 24, False)):
        assert (2 * tokens * heads * width < 2 * width**2 + 2 * tokens * width) is folded  # the costs, written out
        assert resolve("auto", tokens, heads, width, torch.zeros(1)) == ("folded" if folded else "sdpa")


def test_auto_takes_flash_where_it_runs_and_many_tokens_ask(fake_flash):
    assert resolve("auto", 1, HEADS, WIDTH, torch.zeros(1)) == "folded"
    assert resolve("auto", 999, 2, 600, torch.zeros(1)) == "sdpa"  # heads of 300 are too wide for flash-attn
    tokens, states = inputs([1, 2], tokens=30)
    CrossAttention(WIDTH, HEADS)(tokens, states, [1, 2])
    assert len(fake_flash) == 1


def test_flash_where_it_cannot_run(no_flash, monkeypatch):
    with pytest.raises(Ego2ExoError, match="'flash' for torch.float32 on cpu"):
        built("flash")(*inputs([1]), [1])
    monkeypatch.setattr(attention, "_flash_device", lambda tensor: True)
    with pytest.raises(Ego2ExoError, match="install flash-attn"):
        built("flash")(*inputs([1]), [1])


@pytest.mark.gpu
@pytest.mark.parametrize("path", PATHS)
def test_on_a_gpu_in_bfloat16(path):
    if path == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    lengths = [2, 5]
    module, (tokens, states) = built(path).bfloat16().cuda(), inputs(lengths)
    tokens, states = tokens.detach().bfloat16().cuda(), states.detach().bfloat16().cuda()
    got = module(tokens, states, lengths)
    got.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert relative(got, plain(module.float(), tokens.float(), states.float(), lengths)) < 1e-2
