"""Each ablation takes away what it says and nothing else, bit for bit."""

import copy

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.inspection import ABLATIONS, ablated, ablation_modes

from ..models import Batch, P, branch_of, build, expected, hooks_of, prepare, upstream_prepare

pytestmark = pytest.mark.usefixtures("registered")
ROWS, MIXED = ("..V...", "....V.", ".V.."), ("..V.", "....", ".I.V.")


@torch.no_grad()
def inputs(model, batch):
    """What the language model gets: embeddings, labels, mask."""
    result = prepare(model, batch.call())
    return result[4], result[5], result[2]


def same(given, wanted):
    return all(torch.equal(a, b) for a, b in zip(given, wanted, strict=True))


def ego_rows_of(model, batch):
    """(rows, positions) of the ego tokens: where a branch that says 1e6 shows."""
    marked = copy.deepcopy(model)
    torch.nn.init.constant_(branch_of(marked).projector[-1].bias, 1e6)
    return inputs(marked, batch)[0].amin(-1) > 1e5


def test_removed_is_upstreams_own_input():
    model, batch = build(), Batch(*ROWS, *MIXED)
    with ablated(model, "removed"):
        given = inputs(model, batch)
    plain = upstream_prepare(model, batch.call())
    assert same(given, (plain[4], plain[5], plain[2]))
    assert given[0].shape[1] < inputs(model, batch)[0].shape[1]


def test_other_clip_exchanges_the_ego_rows_and_nothing_else():
    model, batch = build(), Batch(*ROWS, *MIXED)
    whole, where = inputs(model, batch), ego_rows_of(model, batch)
    with ablated(model, "other clip"):
        embeds, labels, mask = inputs(model, batch)
    videos = batch.kinds.count("video")
    assert where.sum() == videos * P
    assert torch.equal(embeds[~where], whole[0][~where]) and same((labels, mask), whole[1:])
    mine, theirs = embeds[where].view(videos, P, -1), whole[0][where].view(videos, P, -1)
    assert torch.equal(mine, theirs.roll(1, 0))
    assert all((mine[i] - theirs[i]).abs().max() > 1e-3 for i in range(videos))


def test_alone_takes_the_ordinary_tokens_away():
    model, batch = build(), Batch(*ROWS, "....", "V.V")
    wanted = expected(model, batch, visual=False)
    with ablated(model, "alone"):
        embeds, labels, mask = inputs(model, batch)
    assert same((embeds, labels, mask), wanted)
    assert embeds.shape[1] < inputs(model, batch)[0].shape[1]


def test_all_is_as_before_afterwards():
    model, batch = build(), Batch(*ROWS)
    whole, config, seen = inputs(model, batch), vars(model.config).copy(), [inputs(model, batch)[0]]
    for mode in ABLATIONS:
        with pytest.raises(KeyError), ablated(model, mode):
            seen.append(inputs(model, batch)[0])
            raise KeyError(mode)
        assert vars(model.config) == config and hooks_of(model) == 0
        assert same(inputs(model, batch), whole)
    assert torch.equal(seen[0], seen[1]) and not any(torch.equal(seen[0], other) for other in seen[2:])


def test_other_clip_needs_other_clips():
    model, repeated = build(), Batch("..V..", "..V.", ".V.", frames=3)
    repeated.images[2] = repeated.images[1].clone()
    for batch, message in ((Batch("..V..", "...."), "1 video"), (repeated, "video 2 .*1 such of 3")):
        with pytest.raises(Ego2ExoError, match=message), ablated(model, "other clip"):
            inputs(model, batch)
        assert hooks_of(model) == 0


def test_what_means_nothing_for_a_model_is_refused():
    alone, plain = build(ego2exo_visual_tokens=False), build(ego=False)
    assert [ablation_modes(model) for model in (build(), alone, plain)] == [
        ABLATIONS,
        ("none", "other clip"),
        ("none",),
    ]
    for model in (alone, plain):
        for mode in {*ABLATIONS, "gone"} - set(ablation_modes(model)):
            with pytest.raises(Ego2ExoError, match=mode), ablated(model, mode):
                pass
    batch = Batch(*ROWS)
    whole = inputs(alone, batch)[0]
    with ablated(alone, "other clip"):
        assert not torch.equal(inputs(alone, batch)[0], whole)
