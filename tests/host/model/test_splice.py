"""Ego tokens inside the language model's input, against upstream's own preparation with the rows put in by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.splice import VisualInput, list_inputs

from ..models import Batch, P, branch_of, build, check_rows, ego_grads, expected, greedy, hooks_of, is_next, prepare

pytestmark = pytest.mark.usefixtures("registered")
next_only = pytest.mark.skipif(not is_next(), reason="llava-torch has neither `modalities` nor newline positions")

CASES = {
    "text and image rows": (".....", "..V.", "..I.", "V....."),
    "side by side": ("..VV.", "IV..", "VI"),
    "several images": ("..I.I.", "..", ".I.V.I."),
    "no video": ("..", "..I.", ".I.I"),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_stand_behind_their_video_or_in_front(name):
    for side, place in (("right", "behind"), ("left", "behind"), ("right", "front")):
        check_rows(build(ego2exo_place=place), Batch(*CASES[name], left=side == "left"), side=side)


def test_whatever_the_branch_is():
    for flags in (
        {"ego2exo_block": "transformer", "ego2exo_layers": "1,3"},
        {"ego2exo_attn": "sdpa", "mm_projector_type": "linear"},
        {"ego2exo_key_embedding": "frame+position"},
        {"ego2exo_block": "cross_attention"},
        {"ego2exo_block": "constant"},
    ):
        check_rows(build(**flags), Batch("..V.", "..", "V.V."))


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation(side):
    """Within text, frames and ego tokens."""
    model, batch = build(), Batch("..V..", "...", ".V.I.V")
    longest = expected(model, batch)[0].shape[1]
    for limit in (1, 3, 19, longest - P, longest - 1, longest):
        check_rows(model, batch, limit=limit, side=side)


def test_mask_labels_and_positions():
    model, batch = build(), Batch("..V..", "..I..", ".....")
    wanted = expected(model, batch)
    result = prepare(model, batch.call(attention_mask=None, labels=None))
    assert torch.equal(result[4], wanted[0]) and result[5] is None and result[2] is None
    assert prepare(model, batch.call(attention_mask=batch.mask.bool()))[2].dtype == torch.bool
    result = prepare(model, batch.call(position_ids=torch.arange(5).expand(3, 5)))
    for row, length in zip(result[1], result[2].sum(1), strict=True):
        assert torch.equal(row[:length], torch.arange(length))


def test_forms_of_images():
    """Of (B, 3, H, W) LLaVA takes each for an image, whatever `modalities` says."""
    model, batch = build(ego2exo_modalities="video,image"), Batch("..V..", "I...", "..")
    images = [x[0] if len(x) == 1 else x for x in batch.images]
    assert torch.equal(prepare(model, batch.call(images=images))[4], expected(model, batch, "video,image")[0])
    batch = Batch("..V..", "V...", frames=4)
    wanted = expected(model, batch, "video,image")[0]
    assert torch.equal(prepare(model, batch.call(images=torch.stack(batch.images)))[4], wanted)
    batch = Batch("..I..", "I...")
    pictures = {"images": torch.cat(batch.images), **({"modalities": ["video", "video"]} if is_next() else {})}
    for ego in ("video", "image"):
        model = build(ego2exo_modalities=ego)
        assert torch.equal(prepare(model, batch.call(**pictures))[4], expected(model, batch, ego)[0])


def test_several_pictures_without_modalities():
    """A video only where LLaVA would not take them for the crops of one picture."""
    images = [torch.zeros(4, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(3, 2, 2)]
    for merge, ratio, kind in (("flat", "pad", "video"), ("spatial", "pad", "image"), ("flat", "anyres", "image")):
        config = SimpleNamespace(mm_patch_merge_type=merge, image_aspect_ratio=ratio)
        wanted = [VisualInput(kind, 0, 4), VisualInput("image", 4, 5), VisualInput("image", 5, 6)]
        assert list_inputs(images, None, config) == wanted
        assert list_inputs(torch.zeros(2, 4, 3, 2, 2), None, config)[1] == VisualInput(kind, 4, 8)


def test_images_get_tokens_when_asked():
    check_rows(build(ego2exo_modalities="video,image"), Batch(*CASES["several images"], "IV.."), "video,image")
    check_rows(build(ego2exo_modalities="image"), Batch(*CASES["text and image rows"]), "image")


@next_only
@pytest.mark.parametrize("newline", ["grid", "frame"])
def test_newline_tokens(newline):
    model = build(mm_patch_merge_type="spatial_unpad", config={"mm_newline_position": newline})
    check_rows(model, Batch("..V..", "..I.V.", "..."))


@next_only
def test_a_picture_in_crops_beside_a_video():
    config = {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": [[56, 56]]}
    model = build(mm_patch_merge_type="spatial_unpad", config=config)
    batch = Batch("..C.V..", "..V", "C...")
    check_rows(model, batch, sizes=[(60, 40)] * len(batch.images))
    model.config.ego2exo_modalities = "video,image"
    check_rows(model, batch, "video,image", sizes=[(60, 40)] * len(batch.images))


@next_only
def test_fewer_modalities_or_images_than_placeholders():
    """Upstream cuts the batch to as many rows as `modalities` has entries; a placeholder too many repeats an image."""
    model, batch = build(), Batch("..V..", ".V.V.")
    batch.images, batch.kinds = batch.images[:2], batch.kinds[:2]
    check_rows(model, batch)
    batch = Batch("..V..", "...", "..I.")
    wanted = expected(model, batch)
    for modalities in (["video"], "video"):
        result = prepare(model, batch.call(modalities=modalities))
        assert torch.equal(result[4], wanted[0]) and torch.equal(result[5], wanted[1])


def test_a_tower_that_sees_every_frame_twice_is_refused():
    model = build()
    tower = model.get_vision_tower()
    forward = tower.forward
    tower.forward = lambda images: (forward(images), forward(images))[0]
    with pytest.raises(Ego2ExoError, match="CLIPVisionTower encoded .* pictures where the batch has"):
        prepare(model, Batch("..V.").call())
    assert hooks_of(model) == 0


class TestWithoutVisualTokens:
    def test_ego_rows_alone(self):
        model = build(ego2exo_visual_tokens=False)
        embeds, *_ = check_rows(model, Batch("..V..", "....", "V.V", left=True), visual=False, side="left")
        assert embeds.shape[1] == max(4 + P, 4, 1 + 2 * P)
        model = build(ego2exo_visual_tokens=False, ego2exo_modalities="video,image")
        check_rows(model, Batch("..V..", "..", ".I.", "I.V"), "video,image", visual=False)

    def test_an_image_would_vanish(self):
        model = build(ego2exo_visual_tokens=False)
        for rows, changes in ((("..V.", ".I."), {}), (("..I.",), {"images": torch.randn(1, 3, 28, 28)})):
            with pytest.raises(Ego2ExoError, match="--ego2exo_modalities"):
                prepare(model, Batch(*rows).call(**changes))
        assert hooks_of(model) == 0

    def test_every_projector_parameter_has_a_gradient(self):
        """Distributed training waits for each; the ordinary projector's are zero, and it runs on one patch alone."""
        model, seen = build(ego2exo_visual_tokens=False), []
        model.get_model().mm_projector.register_forward_hook(lambda m, a, o: seen.append(tuple(a[0].shape)))
        model(**Batch("..V..", "..").call()).loss.backward()
        for name, parameter in model.get_model().mm_projector.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()) == name.startswith("ego_tokens"), name
        assert seen == [(1, 1, 32)] and "encode_images" not in vars(model)


@torch.no_grad()
def test_generate_without_visual_tokens_and_with_beams():
    model, batch = build(ego2exo_visual_tokens=False), Batch("..V..V.")
    assert torch.equal(model.generate(**batch.asked())[:, -6:], greedy(model, batch, 6)[0])
    assert model.generate(**batch.asked(num_beams=2, num_return_sequences=2)).shape[0] == 2


def test_a_left_padded_batch_equals_singles():
    rows = ("..V..", "........", "..I.V.", "V.")
    model = build(config={"tokenizer_padding_side": "left"})
    batch = Batch(*rows, left=True)
    together = model.generate(**batch.asked())
    for index, row in enumerate(rows):
        single = copy.copy(batch)
        single.rows, items = [batch.rows[index]], batch.slots[index] or [sum(len(s) or 1 for s in batch.slots[:index])]
        single.images, single.kinds = [batch.images[i] for i in items], [batch.kinds[i] for i in items]
        assert torch.equal(model.generate(**single.asked())[0], together[index]), row


def input_needs_grad(_module, _args, output):
    """The hook that LLaVA's train script puts on the embedding under gradient checkpointing."""
    output.requires_grad_(True)


class TestTraining:
    def test_checkpointing_changes_no_gradient(self):
        results = []
        for mode in (None, {"use_reentrant": True}, {"use_reentrant": False}):
            model = build().train()
            model.get_vision_tower().requires_grad_(False)
            if mode:
                model.gradient_checkpointing_enable(mode)
                model.get_input_embeddings().register_forward_hook(input_needs_grad)
            loss = model(**Batch("....V..", "......", "..I..V.").call()).loss
            loss.backward()
            results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
            assert all(grad is not None and grad.any() for grad in ego_grads(model).values())
        for loss, grads in results[1:]:
            assert torch.equal(loss, results[0][0])
            for name, grad in grads.items():
                torch.testing.assert_close(grad, results[0][1][name], msg=name)

    @next_only
    @pytest.mark.parametrize(("block", "last"), [("cross_attention", 3), ("encoder", 1)])
    def test_a_tuned_tower_gets_gradients_through_the_ego_tokens(self, block, last):
        """The encoder block reads what enters the last layer that LLaVA runs: two layers before the tower's last."""
        model = build(ego2exo_visual_tokens=False, ego2exo_block=block).train()
        tower = model.get_vision_tower().vision_tower.requires_grad_(True)
        model.gradient_checkpointing_enable({"use_reentrant": True})
        model.get_input_embeddings().register_forward_hook(input_needs_grad)
        tower.vision_model.embeddings.register_forward_hook(input_needs_grad)
        model(**Batch("....V..", "......").call()).loss.backward()
        grads = [p.grad for i in range(last + 1) for p in tower.vision_model.encoder.layers[i].parameters()]
        assert all(grad is not None and grad.any() for grad in grads[:-2])

    def test_no_video(self):
        """Loss as without the plugin; ego gradients zero, not None, and an inf in the branch stays in there."""
        model, batch = build(), Batch("...I..", "....")
        plain = build(ego=False)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if "ego_tokens" not in k})
        wanted = plain(**batch.call()).loss
        wanted.backward()
        loss = model(**batch.call()).loss
        loss.backward()
        assert torch.equal(loss, wanted)
        for name, parameter in plain.named_parameters():
            other = model.get_parameter(name).grad
            assert (other is None and parameter.grad is None) or torch.equal(other, parameter.grad), name
        for name, grad in ego_grads(model).items():
            assert grad is not None and not grad.any(), name
        with torch.no_grad():
            for parameter in branch_of(model).parameters():
                parameter.fill_(float("inf"))
        assert torch.equal(model(**batch.call()).loss, wanted)
        branch_of(model).requires_grad_(False).reader.register_forward_pre_hook(pytest.fail)
        model(**batch.call())  # frozen, it is not run

    def test_truncated_away_tokens_still_have_gradients(self):
        model = build(config={"tokenizer_model_max_length": 3})
        model(**Batch("...V..", "....").call()).loss.backward()
        assert all(grad is not None and not grad.any() for grad in ego_grads(model).values())


def test_no_hooks_after_an_exception():
    model, batch = build(), Batch("..V..", "V.")
    for part in (branch_of(model).reader, model.get_vision_tower()):
        part.forward = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            model(**batch.call())
        del part.forward
        assert hooks_of(model) == 0
    assert torch.isfinite(model(**batch.call()).loss)


def test_copies_and_inference_mode():
    model, batch = build(), Batch("..V..", "V.")
    wanted = prepare(model, batch.call())[4]
    assert torch.equal(prepare(copy.deepcopy(model), batch.call())[4], wanted)
    with torch.inference_mode():
        assert torch.equal(prepare(model, batch.call())[4], wanted)


def test_half_precision_with_a_float_tower():
    model, batch = build(), Batch("..V..", "V.")
    wanted = prepare(model, batch.call())[4]
    model.to(torch.float16)
    model.get_vision_tower().float()
    result = prepare(model, batch.call(images=[x.half() for x in batch.images]))[4]
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float(), wanted, atol=0.1, rtol=0.1)


def test_a_step_with_a_cache_passes_through():
    model = build()
    ids = torch.tensor([[5]])
    result = prepare(model, {"input_ids": ids, "images": Batch("..V.").images})
    assert result[0] is ids and result[4] is None
    longer = torch.tensor([[5, 6]])
    assert prepare(model, {"input_ids": longer, "images": None})[0] is longer
