"""The ego tokens' attention beside the plain form, which projects keys and values of every patch as the authors do.

    python scripts/bench_attention.py                       # on the CPU: two layers, some minutes
    python scripts/bench_attention.py --device cuda         # on a GPU: all layers, bfloat16

Sizes are SigLIP so400m's: width 1152, 16 heads, 729 patches a frame, 26 layers. Layers are alike and independent, so
fewer of them give the same ratios. `auto` is what a run gets; `states alone` and `weights too` are the two ways of the
folded form, which differ in what backward keeps beside the layers' outputs.
"""

from __future__ import annotations

import argparse

import torch
from _bench import Ways, add_common, dtype_of, machine, peak_bytes, show, side_by_side, table
from torch import Tensor, nn

from llava_ego2exo.method.attention import CrossAttention
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens

WIDTH, HEADS, PATCHES, LAYERS = 1152, 16, 729, 26
PLAIN = "K and V projected"


class Plain(nn.Module):
    """The paper's cross-attentions in the usual form: K and V of every patch, and torch's fused attention."""

    def __init__(self, ours: EgoAdaptiveTokens) -> None:
        super().__init__()
        self.tokens = nn.Parameter(ours.tokens.detach().clone())
        self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4)) for _ in ours.blocks)
        for block, layers in zip(ours.blocks, self.layers, strict=True):
            for source, target in zip((block.q, block.k, block.v, block.out), layers, strict=True):
                target.weight.data.copy_(source.weight)
                target.bias.data.zero_() if source.bias is None else target.bias.data.copy_(source.bias)

    def forward(self, states: list[Tensor]) -> Tensor:
        """States (frames, patches, D) a layer -> (1, P, D)."""
        tokens = self.tokens[None]
        for h, layers in zip(states, self.layers, strict=True):
            tokens = self._attend(tokens, h.flatten(0, 1)[None], *layers)
        return tokens

    @staticmethod
    def _attend(tokens: Tensor, h: Tensor, q: nn.Linear, k: nn.Linear, v: nn.Linear, out: nn.Linear) -> Tensor:
        heads = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q(tokens), k(h), v(h))]
        return out(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def main() -> int:
    """Print seconds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--tokens", type=int, default=16, help="P")
    parser.add_argument("--layers", type=int, help=f"(default: {LAYERS} on a GPU, 2 on a CPU)")
    args = parser.parse_args()
    args.layers = args.layers or (LAYERS if args.device.startswith("cuda") else 2)
    found = {
        "machine": machine(args.device), "dtype": str(dtype_of(args)).removeprefix("torch."), "layers": args.layers,
        "tokens": args.tokens, "frames": {frames: measure(args, frames) for frames in args.frames},
    }  # fmt: skip
    show(args, found, lines(found))
    return 0


def measure(args: argparse.Namespace, frames: int) -> dict:
    """Of each way: seconds and peak bytes, forward alone and with backward, and bytes kept between the two."""
    torch.manual_seed(0)
    made = {"device": args.device, "dtype": dtype_of(args)}
    states = [torch.randn(frames, PATCHES, WIDTH, **made) for _ in range(args.layers)]
    ours = EgoAdaptiveTokens(args.tokens, WIDTH, HEADS, range(args.layers)).to(**made)
    plain = Plain(ours).to(**made)
    modules = {PLAIN: plain, "auto": ours, **_ways(ours, states[0])}
    wanted = plain(states).detach().float()
    forward, both = {}, {}
    for name, module in modules.items():
        run = (lambda m=plain: m(states)) if name == PLAIN else (lambda m=module: m(states, [frames]))
        off = (run().detach().float() - wanted).norm() / wanted.norm()
        if off > (1e-5 if made["dtype"] == torch.float32 else 5e-2):
            raise SystemExit(f"{name} differs from {PLAIN} by {off:.1e}")
        forward[name] = torch.no_grad()(run)
        both[name] = lambda run=run: run().float().sum().backward()
    for run in both.values():
        run()  # the parameters' gradients are there before any memory is measured
    seconds = [side_by_side(ways, args.rounds, args.device) for ways in (forward, both)]
    peaks = [{name: peak_bytes(run, args.device) for name, run in ways.items()} for ways in (forward, both)]
    keys = ("forward seconds", "training seconds", "forward peak", "training peak")
    found = {name: dict(zip(keys, (x[name] for x in (*seconds, *peaks)), strict=True)) for name in modules}
    for name, module in modules.items():
        found[name]["kept"] = kept_bytes(module, states, name == PLAIN, frames)
    return found


def _ways(ours: EgoAdaptiveTokens, states: Tensor) -> Ways:
    """The same weights, computed each way that runs here."""

    def way(attn: str, keep_weights: bool | None = None) -> EgoAdaptiveTokens:
        other = EgoAdaptiveTokens(ours.num_tokens, WIDTH, HEADS, ours.layers, attn=attn).to(states)
        other.load_state_dict(ours.state_dict())
        for module in other.modules():
            if isinstance(module, CrossAttention):
                module.keep_weights = keep_weights
        return other

    ways = {
        "folded, states alone": way("folded", False),
        "folded, weights too": way("folded", True),
        "sdpa": way("sdpa"),
    }
    from llava_ego2exo.method.attention import _flash_runs

    return {**ways, "flash": way("flash")} if _flash_runs(states, WIDTH // HEADS) else ways


def kept_bytes(module: nn.Module, states: list[Tensor], plain: bool, frames: int) -> int:
    """Bytes that autograd keeps from forward to backward, the given states and the parameters apart."""
    known = {t.untyped_storage().data_ptr() for t in [*states, *module.parameters()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(states) if plain else module(states, [frames])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def lines(found: dict) -> list[str]:
    """The tables, ratios last."""
    made = [f"{found['machine']}; {found['dtype']}, {found['layers']} layers, {found['tokens']} tokens", ""]
    heads = ["frames", "way", "forward", "with backward", "peak forward", "peak with backward", "kept beside h"]
    rows, ratios = [], []
    for frames, ways in found["frames"].items():
        base = ways[PLAIN]
        for name, one in ways.items():
            times = [f"{one[key]:.3f} s" for key in ("forward seconds", "training seconds")]
            sizes = [f"{one[key] / 2**20:.1f} MiB" for key in ("forward peak", "training peak", "kept")]
            rows.append([frames, name, *times, *sizes])
            keys = ("forward seconds", "training seconds", "forward peak", "training peak")
            ratios.append([frames, name, *(f"{base[key] / one[key]:.2f}" for key in keys)])
    about = f"How many times the time and memory of each way `{PLAIN}` takes:"
    return [*made, *table(heads, rows), "", about, "", *table(heads[:-1], ratios), "", _last(found)]


def _last(found: dict) -> str:
    said = []
    for frames, ways in found["frames"].items():
        forward, both = (ways[PLAIN][key] / ways["auto"][key] for key in ("forward seconds", "training seconds"))
        said.append(f"{frames} frames: forward x{forward:.2f}, with backward x{both:.2f}")
    return f"{PLAIN} takes so many times the time of auto: {'; '.join(said)}"


if __name__ == "__main__":
    raise SystemExit(main())
