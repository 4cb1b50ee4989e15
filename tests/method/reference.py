"""The paper's equations (section 3.2) in the plainest form: loops over videos and heads, K and V written out."""

import math

import torch


def cross_attention(weights, tokens, states, heads, added=None):
    """One video: tokens (P, D), states (frames, patches, D), added (frames, patches, D) or None -> (P, D)."""
    width = tokens.shape[-1] // heads
    keys = states if added is None else states + added
    keys, values = keys.reshape(-1, keys.shape[-1]), states.reshape(-1, states.shape[-1])
    results = []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query = tokens @ weights["q.weight"][rows].T + weights["q.bias"][rows]
        key = keys @ weights["k.weight"][rows].T
        value = values @ weights["v.weight"][rows].T + weights["v.bias"][rows]
        scores = query @ key.T / math.sqrt(width)
        shares = torch.exp(scores - scores.max(dim=1, keepdim=True).values)
        results.append(shares / shares.sum(dim=1, keepdim=True) @ value)
    return torch.cat(results, dim=1) @ weights["out.weight"].T + weights["out.bias"]


def layer_norm(weights, name, x):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[name + ".weight"]
        + weights[name + ".bias"]
    )


def transformer(weights, tokens, states, heads, added=None):
    """The pre-norm residual block, queries normed only."""
    inner = {name.removeprefix("attn."): value for name, value in weights.items() if name.startswith("attn.")}
    tokens = tokens + cross_attention(inner, layer_norm(weights, "ln_attn", tokens), states, heads, added)
    hidden = layer_norm(weights, "ln_mlp", tokens) @ weights["mlp.0.weight"].T + weights["mlp.0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return tokens + hidden @ weights["mlp.2.weight"].T + weights["mlp.2.bias"]


def videos(block, weights, tokens, states, lengths, heads, added=None):
    """A batch, video by video: tokens (V, P, D), states (sum of lengths, patches, D), added as states or None."""
    results, start = [], 0
    for row, length in zip(tokens, lengths, strict=True):
        part = slice(start, start + length)
        results.append(block(weights, row, states[part], heads, None if added is None else added[part]))
        start += length
    return torch.stack(results)


def read(block, weights, layers, hidden, lengths, heads, added=None):
    """All chosen layers in turn; weights as `EgoAdaptiveTokens` names them."""
    tokens = torch.stack([weights["tokens"] for _ in lengths])
    for number, layer in enumerate(layers):
        prefix = f"blocks.{number}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tokens = videos(block, own, tokens, hidden[layer], lengths, heads, added)
    return tokens
