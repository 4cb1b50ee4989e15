"""What answers attend to, against the language model's own run on the input that LLaVA prepares."""

import copy

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.inspection import ablated, answer_attention, tokens_off, visual_length

from ..models import Batch, P, branch_of, build, prepare

pytestmark = pytest.mark.usefixtures("registered")


@torch.no_grad()
def by_hand(model, batch, ids, answer):
    """Shares by marks in the input: ego rows by a branch that says 1e6, text rows by their embeddings."""
    marked = copy.deepcopy(model)
    torch.nn.init.constant_(branch_of(marked).projector[-1].bias, 1e6)
    ego = prepare(marked, batch.call())[4][0].amin(-1) > 1e5
    embeds = prepare(model, batch.call())[4]
    words = model.get_input_embeddings()(ids[ids >= 0])
    text = (embeds[0][:, None] == words[None]).all(-1).any(-1)
    layers = model.model(inputs_embeds=embeds, output_attentions=True).attentions
    weights = torch.stack(layers)[:, 0, :, -answer - 1 : -1].mean((0, 1, 2))
    shares = [weights[where].sum() for where in (ego, ~ego & ~text, text)]
    return dict(zip(("ego tokens", "visual tokens", "text"), map(float, shares), strict=True)), int((~text).sum())


FLAGS = [{}, {"ego2exo_visual_tokens": False}, {"ego2exo_place": "front"}]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_equals_shares_by_hand(flags):
    model, batches = build(**flags), [Batch("..V....", frames=3), Batch("V...", frames=2)]
    rows = [(batch.ids[0], len(batch.ids[0]) - answer) for batch, answer in zip(batches, (2, 1), strict=True)]
    found = answer_attention(model, rows, [batch.images[0] for batch in batches])
    both = [by_hand(model, b, ids, len(ids) - start) for b, (ids, start) in zip(batches, rows, strict=True)]
    assert found == pytest.approx({name: sum(one[name] for one, _ in both) / 2 for name in found}, abs=1e-5)
    assert sum(found.values()) == pytest.approx(1)
    assert (found["visual tokens"] == 0) == ("ego2exo_visual_tokens" in flags)
    for batch, (ids, _), (_, length) in zip(batches, rows, both, strict=True):
        assert visual_length(model, ids, batch.images[0]) == length
        if "ego2exo_visual_tokens" in flags:
            assert length == P


def test_follows_what_is_taken_away():
    model, batch = build(), Batch("..V...")
    row, clips = [(batch.ids[0], len(batch.ids[0]) - 1)], [batch.images[0]]
    whole = visual_length(model, batch.ids[0], clips[0])
    with ablated(model, "alone"):
        assert answer_attention(model, row, clips)["visual tokens"] == 0
        assert visual_length(model, batch.ids[0], clips[0]) == P
    with tokens_off():
        assert answer_attention(model, row, clips)["ego tokens"] == 0
        assert visual_length(model, batch.ids[0], clips[0]) == whole - P


def test_a_model_without_ego_tokens_is_refused():
    with pytest.raises(Ego2ExoError, match="without ego tokens"):
        answer_attention(build(ego=False), [], [])
