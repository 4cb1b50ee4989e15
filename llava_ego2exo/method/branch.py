"""The ego branch of a projector: the tokens that read the encoder, and their own way into the language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .ego_tokens import EgoAdaptiveTokens


class EgoBranch(nn.Module):
    """Ego Adaptive Visual Tokens followed by Projector_ego (paper section 3.2).

    Args:
        reader: the tokens with one attention a chosen encoder layer.
        projector: maps (..., D) to (..., LLM width); shaped as the ordinary projector, weights of its own.
    """

    def __init__(self, reader: EgoAdaptiveTokens, projector: nn.Module) -> None:
        super().__init__()
        self.reader = reader
        self.projector = projector

    def forward(
        self,
        hidden_states: Mapping[int, Tensor],
        lengths: list[int],
        offload: bool = False,
        again: Callable[[], Mapping[int, Tensor]] | None = None,
    ) -> Tensor:
        """Ego tokens of several videos.

        Args:
            hidden_states: layer number -> (sum of lengths, patches, D), the frames of all videos in turn.
            lengths: frames of each video.
            offload: what backward needs of the layers waits in the host's memory.
            again: returns `hidden_states` again; with it nothing of them is kept until backward, which calls it. They
                must be the same numbers, and get no gradient.

        Returns:
            (videos, P, LLM width).
        """
        if again is None or not torch.is_grad_enabled():
            return self.projector(self.reader(hidden_states, lengths, offload))
        return self.projector(_read_again(self.reader, hidden_states, lengths, again))

    def unused(self) -> Tensor:
        """An empty (0, LLM width) tensor that ties every parameter to the graph with a zero gradient.

        Distributed training waits for a gradient of every parameter, also where a batch holds no video.
        """
        return self({}, []).flatten(0, 1)

    def reset_parameters(self, seed: int) -> None:
        """Fresh weights from `seed` alone: the same on every process, and the global generator is left untouched."""
        self.reader.reset_parameters(torch.Generator().manual_seed(seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.projector.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()


def _read_again(
    reader: EgoAdaptiveTokens,
    hidden_states: Mapping[int, Tensor],
    lengths: list[int],
    again: Callable[[], Mapping[int, Tensor]],
) -> Tensor:
    """`reader(hidden_states, lengths)`, evaluated once more in backward on what `again` gives."""
    first = [hidden_states]
    del hidden_states  # nothing that lives until backward may hold them

    def read() -> Tensor:
        return reader(first.pop() if first else again(), lengths)

    return checkpoint(read, use_reentrant=False, preserve_rng_state=False)
