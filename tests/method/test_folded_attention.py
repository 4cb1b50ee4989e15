"""The folded attention piece by piece, and what each way of attending keeps for backward."""

import weakref

import pytest
import torch

from llava_ego2exo.method import folded_attention, offload
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens
from llava_ego2exo.method.folded_attention import kept, lean

ROWS, WIDTH, FRAMES, PATCHES = 6, 12, 5, 7
MANY, LARGE = 64, 64  # frames and patches, when what is kept is counted: so many that all else is smaller


def given(frame, position, dtype=torch.float32):
    torch.manual_seed(torch.seed() % 2**31)
    shapes = [(ROWS, WIDTH), (FRAMES, PATCHES, WIDTH), frame and (ROWS, FRAMES), position and (ROWS, PATCHES)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() if shape else None for shape in shapes]


def by_definition(query, states, frame, position):
    scores = torch.einsum("md,fnd->mfn", query, states)
    scores = scores + (0 if frame is None else frame[:, :, None]) + (0 if position is None else position[:, None])
    return scores.flatten(1).softmax(-1) @ states.flatten(0, 1)


@pytest.mark.parametrize("frames_a_piece", [1, 3])
@pytest.mark.parametrize("frame, position", [(False, False), (True, True)])
def test_pieces_of_any_size_equal_the_definition(frame, position, frames_a_piece, monkeypatch):
    monkeypatch.setattr(folded_attention, "_SCORES", ROWS * PATCHES * frames_a_piece + 1)
    inputs = given(frame, position)
    leaves = [x for x in inputs if x is not None]
    weight, results = torch.randn(ROWS, WIDTH), []
    for function in (lean, kept, by_definition):
        out = function(*inputs)
        results.append([out, *torch.autograd.grad((out * weight).sum(), leaves)])
    for mine, other, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other, wanted, atol=1e-5, rtol=1e-5)


def test_only_what_needs_a_gradient_gets_one():
    for frozen in range(4):
        inputs = given(True, True)
        inputs[frozen].requires_grad_(False)
        lean(*inputs).sum().backward()
        assert [x.grad is None for x in inputs] == [index == frozen for index in range(4)]


@pytest.mark.parametrize("query, states", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_states_of_another_dtype_are_cast_piece_by_piece(query, states, monkeypatch):
    monkeypatch.setattr(folded_attention, "_SCORES", 1)
    asked, seen, *_ = given(False, False)
    asked, seen = (x.detach().to(dtype).requires_grad_() for x, dtype in ((asked, query), (seen, states)))
    out = lean(asked, seen)
    out.float().sum().backward()
    assert (out.dtype, asked.grad.dtype, seen.grad.dtype) == (query, query, states)
    wanted = by_definition(asked.detach().float(), seen.detach().float(), None, None)
    assert (out.float() - wanted).norm() < 2e-2 * wanted.norm()


def kept_storages(run, module):
    """Storages that autograd keeps of a call, without the module's own parameters: address -> bytes."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found, hold = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            hold.append(tensor)  # or an address might be used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    return found, out


def growing(found):
    """Of these bytes, those of patch size: a number a patch of half the frames, or more."""
    return {key: size for key, size in found.items() if size >= MANY // 2 * LARGE * 2}


def test_of_patch_size_lean_keeps_the_states_alone():
    module = EgoAdaptiveTokens(2, 8, 2, (0,), attn="folded", key_embedding="frame+position")
    module.blocks[0].keep_weights = False
    whole = torch.randn(MANY, LARGE + 1, 8)  # with a class token
    found, out = kept_storages(lambda: module([whole[:, 1:]], [MANY // 2] * 2), module)
    assert growing(found) == {whole.untyped_storage().data_ptr(): whole.nbytes}
    out.sum().backward()


def test_on_a_cpu_the_weights_are_kept_too():
    """Heads * tokens numbers a patch, and never K or V."""
    module = EgoAdaptiveTokens(2, 8, 2, (0,), attn="folded")
    states = torch.randn(MANY, LARGE, 8)
    found, _ = kept_storages(lambda: module([states], [MANY // 2] * 2), module)
    sizes = growing(found)
    assert sizes.pop(states.untyped_storage().data_ptr()) == states.nbytes
    assert sum(sizes.values()) == 2 * 2 * MANY * LARGE * 4


def test_what_is_kept_is_the_narrower_of_two_dtypes():
    module = EgoAdaptiveTokens(2, 8, 2, (0,), attn="folded").bfloat16()
    module.blocks[0].keep_weights = False
    found, _ = kept_storages(lambda: module([torch.randn(MANY, LARGE, 8)], [MANY]), module)
    assert list(growing(found).values()) == [MANY * LARGE * 8 * 2]


@pytest.fixture
def elsewhere(monkeypatch):
    """Storages behave as if they lay on a device of their own; gives the list of what is copied there and back."""
    moved = []
    monkeypatch.setattr(offload, "_is_elsewhere", lambda tensor: True)
    make, back = offload._Away.__init__, offload._Away.back

    def leave(self, tensor):
        moved.append(("away", tensor.untyped_storage().nbytes()))
        make(self, tensor)

    def come(self):
        moved.extend([("back", self.host.nbytes)] * (self._back is None))
        return back(self)

    monkeypatch.setattr(offload._Away, "__init__", leave)
    monkeypatch.setattr(offload._Away, "back", come)
    return moved


@pytest.mark.parametrize("attn, large", [("lean", 1), ("folded", 1), ("sdpa", 3)])
@pytest.mark.parametrize("lengths, cut", [([3], False), ([1, 2], True)])
def test_offloaded_storages_leave_and_return_once(cut, lengths, attn, large, elsewhere):
    module = EgoAdaptiveTokens(2, 8, 2, (0, 1), attn="folded" if attn == "lean" else attn)
    for block in module.blocks:
        block.keep_weights = False if attn == "lean" else None
    whole = [torch.randn(3, LARGE + cut, 8) for _ in range(2)]
    states = [h[:, int(cut) :] for h in whole]
    results = []
    for away in (False, True):
        out = module(states, lengths, offload=away)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in module.parameters())])
        module.zero_grad()
        if not away:
            assert not elsewhere
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    ways = [way for way, size in elsewhere if size >= 3 * LARGE * 8 * 4]
    assert len(elsewhere) == len(ways)
    assert ways == ["away"] * 2 * large + ["back"] * 2 * large


def test_what_is_offloaded_leaves_its_device_and_parameters_stay(elsewhere):
    module = EgoAdaptiveTokens(2, 64, 2, (0,), attn="folded")  # its weights are larger than a frame of two patches
    states = {0: torch.randn(2, 2, 64)}
    held = weakref.ref(states[0].untyped_storage())
    out = module(states, [1, 1], offload=True)
    states.clear()
    assert held() is None and elsewhere and 64 * 64 * 4 not in [size for _, size in elsewhere]
    out.sum().backward(retain_graph=True)
    once = [p.grad.clone() for p in module.parameters()]
    out.sum().backward()  # a second time through the same graph
    for parameter, grad in zip(module.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)
