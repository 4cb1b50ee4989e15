"""A pre-norm transformer block around the tokens' cross-attention."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import CrossAttention, KeyEmbedding, Projection


def reset_layer_norm(layer: nn.LayerNorm) -> nn.LayerNorm:
    """Weight 1 and bias 0, in place: transformers turns nn.init off while it builds a model to load."""
    layer.weight.data.fill_(1.0)
    layer.bias.data.zero_()
    return layer


class TransformerBlock(nn.Module):
    """The alternative to the plain cross-attention: pre-norm residual attention, then a pre-norm residual MLP.

    Only the queries are normed; keys and values are the encoder's states as they are. Their projections absorb any
    scale, and what a trained norm makes of (frames * patches, D) would be kept for backward at every layer.
    """

    def __init__(self, width: int, num_heads: int, attn: str = "auto") -> None:
        super().__init__()
        # The names keep clear of "norm", by which hosts pick parameters.
        self.ln_attn = reset_layer_norm(nn.LayerNorm(width, eps=1e-6))
        self.attn = CrossAttention(width, num_heads, attn)
        self.ln_mlp = reset_layer_norm(nn.LayerNorm(width, eps=1e-6))
        self.mlp = nn.Sequential(Projection(width, 4 * width), nn.GELU(), Projection(4 * width, width))

    def forward(
        self, tokens: Tensor, states: Tensor, lengths: list[int], key_embedding: KeyEmbedding | None = None
    ) -> Tensor:
        """As :meth:`.attention.CrossAttention.forward`: (V, P, D) to (V, P, D)."""
        tokens = tokens + self.attn(self.ln_attn(tokens), states, lengths, key_embedding)
        return tokens + self.mlp(self.ln_mlp(tokens))
