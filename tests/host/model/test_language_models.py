"""Every language model class of the installed llava: a batch with video and text forward, backward and generate."""

import pytest
import torch

from ..models import Batch, P, branch_of, build, check_rows, ego_grads, greedy, is_next

pytestmark = pytest.mark.usefixtures("registered")

KINDS = ("llama", "mistral", "qwen", "mixtral", "gemma", "qwen_moe") if is_next() else ("llama", "mistral")


@pytest.mark.parametrize("kind", KINDS)
def test_forward_backward_and_modalities(kind):
    model, batch = build(kind).train(), Batch("....V..", "......", "..I..")
    check_rows(model, batch)
    loss = model(**batch.call(modalities=batch.kinds)).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, grad in ego_grads(model).items():
        assert grad is not None and grad.any(), name
    if is_next():  # they arrive in a model whose own code cannot carry them too; llava-torch counts frames
        batch = Batch("....V..")
        frames = batch.images[0].shape[0]
        lengths = [model(**batch.call(modalities=[one])).logits.shape[1] for one in ("video", "image")]
        assert lengths == [6 + 4 * frames + P, 6 + 16 * frames]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generate(kind):
    """Equal to a loop without a cache; the ego tokens are made once."""
    model, batch, calls = build(kind), Batch("..V..I."), []
    branch_of(model).register_forward_hook(lambda *_: calls.append(1))
    made = model.generate(**batch.asked(modalities=batch.kinds, output_logits=True, return_dict_in_generate=True))
    assert len(calls) == 1
    tokens, scores = greedy(model, batch, 6)
    torch.testing.assert_close(torch.stack(made.logits, 1), scores, atol=1e-3, rtol=1e-3)
    assert torch.equal(made.sequences[:, -6:], tokens)
    assert model.generate(**Batch("....", "......").asked(images=None)).shape == (2, 6)
