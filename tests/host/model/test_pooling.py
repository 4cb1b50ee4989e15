"""Videos pooled by `--ego2exo_pool`, with ego tokens and without, against means over cells of each frame."""

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.inspection import ablated
from llava_ego2exo.host.model.pooling import pool_frames

from ..models import Batch, P, build, ego_rows, expected, hooks_of, is_next, pad, prepare

pytestmark = pytest.mark.usefixtures("registered")


@torch.no_grad()
def pooled_rows(model, batch, rows, columns, ego):
    """What the language model must get of a batch without newline tokens: means over cells of a frame's 4 x 4 patches,
    and pictures as they are."""
    words, results = model.get_input_embeddings(), []
    chosen = [index for index, kind in enumerate(batch.kinds) if kind == "video"]
    cells = [
        (slice(r * 4 // rows, -(-(r + 1) * 4 // rows)), slice(c * 4 // columns, -(-(c + 1) * 4 // columns)))
        for r in range(rows) for c in range(columns)
    ]  # fmt: skip
    tokens = ego_rows(model, batch, chosen) if ego else torch.zeros(len(chosen), 0, 64)
    for ids, slots in zip(batch.rows, batch.slots, strict=True):
        pieces, left = [], iter(slots)
        for token in ids:
            if token >= 0:
                pieces.append(words(torch.tensor([token])))
                continue
            item = next(left)
            visual = model.encode_images(batch.images[item])
            if item in chosen:
                grid = visual.unflatten(1, (4, 4))
                means = [grid[:, r, c].flatten(1, 2).mean(1) for r, c in cells]
                pieces += [torch.stack(means, 1).flatten(0, 1), tokens[chosen.index(item)]]
            else:
                pieces.append(visual[0])
        results.append(torch.cat(pieces))
    return pad(results, 0.0)


@pytest.mark.parametrize("ego", [True, False])
def test_means_over_cells_of_a_frame(ego):
    for size in ((2, 2), (3, 1), (1, 4)):
        model, batch = build(ego=ego, ego2exo_pool="{}x{}".format(*size)), Batch("..V..", "...", ".V.I.V")
        assert model.config.ego2exo_pool == "{}x{}".format(*size)
        found = prepare(model, batch.call())
        torch.testing.assert_close(found[4], pooled_rows(model, batch, *size, ego))
        visual = found[4].shape[1] - 3 - 16 - 2 * P * ego
        assert visual == size[0] * size[1] * (len(batch.images[2]) + len(batch.images[4]))
        assert {"get_2dPool", "encode_images"}.isdisjoint(vars(model)) and hooks_of(model) == 0


def test_the_full_grid_is_no_pooling():
    model, batch = build(ego2exo_pool="4x4"), Batch("..V..")
    encoded = model.encode_images(batch.images[0]).flatten(0, 1)
    assert torch.equal(prepare(model, batch.call())[4][0, 2 : -P - 2], encoded)


@pytest.mark.skipif(not is_next(), reason="llava-torch has no newline positions")
def test_newline_tokens():
    batch = Batch(".V", frames=3)
    for newline, count in (("grid", 3 * 2 * 3), ("frame", 3 * 5), ("one_token", 13), ("no_token", 12)):
        config = {"mm_newline_position": newline}
        model = build(ego=False, ego2exo_pool="2x2", mm_patch_merge_type="spatial_unpad", config=config)
        assert prepare(model, batch.call())[4].shape[1] == 1 + count


def test_with_a_part_taken_away():
    model, batch = build(ego2exo_pool="2x1"), Batch("..V..", "V.")
    with ablated(model, "removed"):
        torch.testing.assert_close(prepare(model, batch.call())[4], pooled_rows(model, batch, 2, 1, False))
    with ablated(model, "alone"):
        assert torch.equal(prepare(model, batch.call())[4], expected(model, batch, visual=False)[0])


def test_gradients():
    model = build(ego2exo_pool="1x1").train()
    model(**Batch("..V..", ".I..").call()).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.get_model().mm_projector.parameters())


def test_what_has_no_such_grid():
    for patches, size in ((17, (2, 2)), (16, (5, 1))):
        with pytest.raises(Ego2ExoError, match=f"--ego2exo_pool {size[0]}x{size[1]} with {patches} "):
            pool_frames(torch.zeros(2, patches, 8), size)
