"""Every language model class of the installed llava: a batch with video and text forward, backward and generate."""

import pytest
import torch

import llava_ego2exo
from llava_ego2exo.errors import Ego2ExoError

from ..models import Batch, P, branch_of, build, check_rows, ego_grads, greedy, is_next, model_args

pytestmark = pytest.mark.usefixtures("registered")

KINDS = ("llama", "mistral", "qwen", "mixtral", "gemma", "qwen_moe") if is_next() else ("llama", "mistral")


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward(kind):
    model, batch = build(kind).train(), Batch("....V..", "......", "..I..")
    check_rows(model, batch)
    loss = model(**batch.call(modalities=batch.kinds)).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, grad in ego_grads(model).items():
        assert grad is not None and grad.any(), name


@pytest.mark.skipif(not is_next(), reason="llava-torch needs no modalities: it counts frames")
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_modalities_arrive(kind):
    """In a model whose own code cannot carry them too."""
    model, batch = build(kind), Batch("....V..")
    video = model(**batch.call(modalities=["video"])).logits.shape[1]
    image = model(**batch.call(modalities=["image"])).logits.shape[1]
    frames = batch.images[0].shape[0]
    assert (video, image) == (6 + 4 * frames + P, 6 + 16 * frames)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generate(kind):
    model, batch, calls = build(kind), Batch("..V..I."), []
    branch_of(model).register_forward_hook(lambda *_: calls.append(1))
    made = model.generate(**batch.asked(modalities=batch.kinds, output_logits=True, return_dict_in_generate=True))
    assert len(calls) == 1
    tokens, scores = greedy(model, batch, 6)
    torch.testing.assert_close(torch.stack(made.logits, 1), scores, atol=1e-3, rtol=1e-3)
    assert torch.equal(made.sequences[:, -6:], tokens)
    assert model.generate(**Batch("....", "......").asked(images=None)).shape == (2, 6)


def test_mpt():
    """Upstream's MPT calls the preparation without position_ids, in both hosts: dead before ego tokens come in."""
    from llava.model.language_model import llava_mpt

    config = llava_mpt.LlavaMptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=96, max_seq_len=128)
    config.attn_config.alibi = True
    model = llava_mpt.LlavaMptForCausalLM(config)
    model.get_model().initialize_vision_modules(model_args(ego2exo=True))
    batch = Batch("..V..")
    call = {key: value for key, value in batch.call().items() if key != "modalities"}
    with pytest.raises(Ego2ExoError, match="LlavaMptForCausalLM"):
        model(**call)
    llava_ego2exo.unregister()
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        model(**call)
