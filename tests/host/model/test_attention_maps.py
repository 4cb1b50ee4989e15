"""Attention maps of a student's ego tokens, against those of the run that `generate` does."""

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.inspection import video_attention_maps
from llava_ego2exo.method.attention_maps import attention_maps, recorded

from ..models import Batch, P, branch_of, build, hidden_states, hooks_of

pytestmark = pytest.mark.usefixtures("registered")


PLAIN = {"ego2exo_block": "cross_attention"}
FLAGS = [
    PLAIN,
    {"ego2exo_layers": "1,3", "ego2exo_block": "transformer"},
    {"ego2exo_layers": "0,2", "ego2exo_block": "encoder", "ego2exo_attn": "sdpa"},
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_equals_what_generate_attends_to(flags):
    model, batch = build(**flags), Batch("..V..")
    found = video_attention_maps(model, batch.images[0])
    chosen = branch_of(model).reader.layers
    assert found.layers == chosen == tuple(map(int, flags.get("ego2exo_layers", "0,1,2,3").split(",")))
    assert found.maps.shape == (len(chosen), P, len(batch.images[0]), 4, 4)
    with recorded(branch_of(model).reader) as record:
        model.generate(**batch.asked())
    torch.testing.assert_close(found.maps.flatten(-2), torch.stack([video for (video,) in record]))
    torch.testing.assert_close(found.maps.sum((-1, -2, -3)), torch.ones(len(chosen), P))
    assert hooks_of(model) == 0 and not found.maps.requires_grad


def test_heads_apart_and_in_the_place_of_their_patch():
    model, batch = build(**PLAIN), Batch("..V..")
    heads = video_attention_maps(model, batch.images[0], per_head=True).maps
    (wanted,) = attention_maps(
        branch_of(model).reader, hidden_states(model, batch.images), [len(batch.images[0])], True
    )
    assert heads.shape == (4, 4, P, len(batch.images[0]), 4, 4)
    torch.testing.assert_close(heads[..., 2, 1], wanted[..., 2 * 4 + 1])  # row 2, column 1
    torch.testing.assert_close(heads.mean(1), video_attention_maps(model, batch.images[0]).maps)


def test_what_has_no_maps():
    with pytest.raises(Ego2ExoError, match="without ego tokens.*--ego2exo True"):
        video_attention_maps(build(ego=False), torch.randn(2, 3, 28, 28))
    with pytest.raises(Ego2ExoError, match="constant"):
        video_attention_maps(build(ego2exo_block="constant"), torch.randn(2, 3, 28, 28))
    for shape in ((3, 28, 28), (0, 3, 28, 28), (1, 2, 3, 28, 28)):
        with pytest.raises(Ego2ExoError, match="one video"):
            video_attention_maps(build(), torch.randn(shape))
