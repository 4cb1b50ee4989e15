"""Cross-entropy and KL from hidden states: what torch computes from whole logits, in chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.method.divergence import Divergence
from llava_ego2exo.method.losses import FullTeacher, TopKTeacher, distillation_sums

N, D, V = 11, 8, 37
SEED = 5


@pytest.fixture
def world():
    torch.manual_seed(SEED)
    return {
        "head": nn.Linear(D, V), "hidden": torch.randn(N, D, requires_grad=True), "labels": torch.randint(0, V, (N,)),
        "taught_head": nn.Linear(D + 3, V), "taught": torch.randn(N, D + 3),
    }  # fmt: skip


def reference(head, hidden, labels, taught, temperature):
    """From whole logits, by torch's own functions."""
    logits = head(hidden)
    target = F.softmax(taught / temperature, -1)
    found = F.log_softmax(logits[: len(taught)] / temperature, -1)
    kl = F.kl_div(found, target, reduction="sum") * temperature**2
    return torch.stack([F.cross_entropy(logits, labels, reduction="sum"), kl])


@pytest.mark.parametrize("tokens, temperature, known", [(1, 1.0, N), (3, 2.5, 4), (100, 2.5, 0)])
def test_equals_torch_on_whole_logits_with_gradients(tokens, temperature, known, world):
    head, hidden, labels = world["head"], world["hidden"], world["labels"]
    teacher = FullTeacher(world["taught_head"], world["taught"][:known])
    found = distillation_sums(head, hidden, labels, teacher, Divergence(temperature=temperature), tokens * V)
    expected = reference(head, hidden, labels, world["taught_head"](world["taught"][:known]), temperature)
    torch.testing.assert_close(found[:2], expected)
    watched = [hidden, *head.parameters()]
    weights = torch.tensor([1.0, 0.7])
    ours = torch.autograd.grad(found[:2] @ weights, watched)
    for mine, theirs in zip(ours, torch.autograd.grad(expected @ weights, watched), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def by_torch(kind, target, found, beta):
    """From probabilities, by the formulas of GKD, section 2."""

    def kl(one, other):
        return (one * (one / other).log()).sum()

    mixed = beta * target + (1 - beta) * found
    return {
        "forward": kl(target, found), "reverse": kl(found, target),
        "jsd": beta * kl(target, mixed) + (1 - beta) * kl(found, mixed),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind, beta", [("forward", 0.5), ("reverse", 0.5), ("jsd", 0.5), ("jsd", 0.1)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_equal_their_formulas_with_gradients(kind, beta, temperature, world):
    head, hidden = world["head"].double(), world["hidden"].double().detach().requires_grad_()
    taught = world["taught_head"].double()(world["taught"].double())
    teacher = FullTeacher(nn.Identity(), taught)
    found = distillation_sums(head, hidden, world["labels"], teacher, Divergence(kind, temperature, beta), 3 * V)[1]
    shares = [(logits / temperature).softmax(-1) for logits in (taught.detach(), head(hidden))]
    expected = temperature**2 * by_torch(kind, *shares, beta)
    assert float(found) == pytest.approx(float(expected), rel=1e-5) and float(found) > 0.1
    ours, theirs = (torch.autograd.grad(one, [hidden, *head.parameters()]) for one in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("divergence", [Divergence(kind, 4.0) for kind in ("forward", "reverse", "jsd")])
def test_zero_for_equal_logits_in_half_precision(divergence, world):
    head, hidden = world["head"].bfloat16(), world["hidden"].detach().bfloat16().requires_grad_()
    sums = distillation_sums(head, hidden, world["labels"], FullTeacher(head, hidden.detach()), divergence)
    assert sums.dtype == torch.float32 and sums[1].abs() < 1e-5
    (grad,) = torch.autograd.grad(sums[1], hidden)
    assert grad.dtype == torch.bfloat16 and grad.abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_a_cap_and_a_filter_by_hand(kind, world):
    """A token above the cap counts as the cap, without gradient; one that the teacher itself disputes not at all."""
    head, hidden, plain = world["head"], world["hidden"], Divergence(kind, 2.0)
    taught, exo = world["taught_head"](world["taught"]), world["taught_head"](world["taught"] + 0.3).detach()
    each, disputed = plain.each(taught, head(hidden)), plain.each(taught, exo)
    torch.testing.assert_close(each.sum(), plain(taught, head(hidden))[0])
    cap, bound = float(each.detach().median()), float(disputed.median())
    teacher = FullTeacher(nn.Identity(), taught, exo, bound)
    found = distillation_sums(head, hidden, world["labels"], teacher, Divergence(kind, 2.0, cap=cap), 3 * V)
    kept, low = disputed <= bound, each <= cap
    assert kept.sum() == low.sum() == N // 2 + 1 and (kept & ~low).any() and (kept & low).any()
    torch.testing.assert_close(found[1], each[kept & low].sum() + cap * (kept & ~low).sum())
    assert found[2:4].tolist() == [(kept & ~low).sum(), (~kept).sum()]
    (ours,) = torch.autograd.grad(found[1], hidden)
    (theirs,) = torch.autograd.grad(each[kept & low].sum(), hidden)
    torch.testing.assert_close(ours, theirs)


def test_samples_get_no_cross_entropy(world):
    teacher = FullTeacher(world["taught_head"], world["taught"][:4])
    given = world["head"], world["hidden"], world["labels"], teacher
    plain, found = distillation_sums(*given), distillation_sums(*given, max_elements=3 * V, sampled=True)
    shares = world["head"](world["hidden"]).softmax(-1)
    torch.testing.assert_close(found[0], F.nll_loss(shares[4:].log(), world["labels"][4:], reduction="sum"))
    torch.testing.assert_close(found[4], -(shares[:4] * shares[:4].log()).sum())
    torch.testing.assert_close(found[1], plain[1])
    assert plain[4] == 0


def test_no_gradient_reaches_the_teacher(world):
    hidden = world["taught"].requires_grad_()
    teacher = FullTeacher(world["taught_head"], hidden)
    distillation_sums(world["head"], world["hidden"], world["labels"], teacher)[1].backward()
    assert hidden.grad is None and all(p.grad is None for p in world["taught_head"].parameters())
    assert world["hidden"].grad.abs().sum() > 0


def test_no_token_gives_zero_with_a_gradient_path(world):
    none = world["hidden"][:0]
    sums = distillation_sums(world["head"], none, world["labels"][:0])
    assert sums.tolist() == [0] * 5
    sums.sum().backward()
    for value in (world["hidden"], *world["head"].parameters()):
        assert torch.equal(value.grad, torch.zeros_like(value))


def test_top_k_is_the_kl_renormalised_over_these_tokens(world):
    logits, ids = world["taught_head"](world["taught"]).detach().topk(5)
    given = world["head"], world["hidden"], world["labels"]
    found = distillation_sums(*given, TopKTeacher(ids, logits.half()), Divergence(temperature=2.0), 2 * V)[1]
    student = world["head"](world["hidden"]).gather(-1, ids)
    target = F.softmax(logits.half().float() / 2, -1)
    expected = F.kl_div(F.log_softmax(student / 2, -1), target, reduction="sum") * 4
    torch.testing.assert_close(found, expected)


def test_a_teacher_that_does_not_fit(world):
    given = world["head"], world["hidden"], world["labels"]
    with pytest.raises(Ego2ExoError, match=f"{V} tokens.*{V + 2}"):
        distillation_sums(*given, FullTeacher(nn.Linear(D + 3, V + 2), world["taught"]))
    with pytest.raises(Ego2ExoError, match=f"{N} tokens for {N - 1} answer tokens"):
        distillation_sums(given[0], given[1][1:], given[2][1:], FullTeacher(world["taught_head"], world["taught"]))


class Largest(TorchDispatchMode):
    """The largest floating point tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.elements = max(self.elements, value.numel())
        return result


def test_no_full_logits_exist(world):
    """Forward and backward of 64 tokens in chunks of 4: nothing larger than a chunk's logits or the head itself."""
    hidden, labels = torch.randn(64, D, requires_grad=True), torch.randint(0, V, (64,))
    for teacher in (
        FullTeacher(world["taught_head"], torch.randn(64, D + 3)),
        TopKTeacher(torch.randint(0, V, (64, 6)), torch.randn(64, 6)),
    ):
        with Largest() as seen:
            distillation_sums(
                world["head"], hidden, labels, teacher, Divergence(temperature=2.0), 4 * V
            ).sum().backward()
        assert seen.elements <= max(4 * V, V * (D + 3), 64 * (D + 3)) < 64 * V
    with Largest() as seen:
        reference(world["head"], hidden, labels, torch.randn(64, V), 2.0).sum().backward()
    assert seen.elements >= 64 * V
