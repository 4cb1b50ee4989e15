"""The paper's equations (section 3.2) in the plainest form: loops over videos and heads, K and V written out."""

import math

import torch


def cross_attention(weights, tokens, states, heads, added=None, bias=0.0):
    """One video: tokens (P, D), states (frames, patches, D), added (frames, patches, D) or None -> (P, D).

    `bias`: (P, frames * patches), added to the scores.
    """
    width = tokens.shape[-1] // heads
    keys = states if added is None else states + added
    keys, values = keys.reshape(-1, keys.shape[-1]), states.reshape(-1, states.shape[-1])
    results = []
    for head in range(heads):
        rows = slice(head * width, (head + 1) * width)
        query = tokens @ weights["q.weight"][rows].T + weights["q.bias"][rows]
        key = keys @ weights["k.weight"][rows].T
        value = values @ weights["v.weight"][rows].T + weights["v.bias"][rows]
        scores = query @ key.T / math.sqrt(width) + bias
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


def cell_means(states, grid):
    """One video (frames, patches, D) -> (cells, D): means over the cells of a grid of frames, rows and columns."""
    side = math.isqrt(states.shape[1])
    states = states.unflatten(1, (side, side))
    bounds = [
        [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        for size, cells in zip(states.shape[:3], grid, strict=True)
    ]
    return torch.stack(
        [states[t:u, r:s, c:d].mean((0, 1, 2)) for t, u in bounds[0] for r, s in bounds[1] for c, d in bounds[2]]
    )


def encoder(weights, tower, layers, hidden, lengths, heads, grid, mlp=True, added=None):
    """The encoder block: `tower` holds each layer's weights as CLIP names them, `hidden` what enters each layer."""
    results, start = [], 0
    for length in lengths:
        part = slice(start, start := start + length)
        x = weights["tokens"]
        if grid:
            x = x + cell_means(hidden[0][part], grid)
        bias = 0.0
        if "time_shift" in weights:
            times, t, here = (torch.arange(length) + 0.5) / length, grid[0], len(x) // grid[0]
            centre = weights["time_shift"] + torch.tensor([(p // here + 0.5) / t for p in range(len(x))])
            far = (times[None] - centre[:, None]) * (2 * t + weights["time_sharpening"])[:, None]
            bias = -(far**2)[:, :, None].expand(-1, -1, hidden[0].shape[1]).flatten(1)
        for number, layer in enumerate(layers):
            prefix, its = f"blocks.{number}.attn.", tower[layer]
            own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            states = layer_norm(its, "layer_norm1", hidden[layer][part])
            more = None if added is None else added[part]
            x = x + cross_attention(own, layer_norm(its, "layer_norm1", x), states, heads, more, bias)
            if mlp:
                inner = layer_norm(its, "layer_norm2", x) @ its["mlp.fc1.weight"].T + its["mlp.fc1.bias"]
                inner = inner * torch.sigmoid(1.702 * inner)
                x = x + inner @ its["mlp.fc2.weight"].T + its["mlp.fc2.bias"]
        results.append(x)
    return torch.stack(results)
