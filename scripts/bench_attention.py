"""The ego tokens' attention beside the plain form, which projects keys and values of every patch as the authors do.

    python scripts/bench_attention.py                           # on the CPU: two layers, some minutes
    python scripts/bench_attention.py --device cuda             # on a GPU: all layers, bfloat16
    python scripts/bench_attention.py --growth --plot growth.png  # how time and memory grow, at a quarter size

Sizes are SigLIP so400m's: width 1152, 16 heads, 729 patches a frame, 26 layers. Layers are alike and independent, so
fewer of them give the same ratios. `auto` is what a run of the plain block gets; `states alone` and `weights too` are
the two ways of the folded form, which differ in what backward keeps beside the layers' outputs; `encoder block` is
another function, with the encoder's norms and MLPs, and keeps the normed states, in a run in place of the layers' own.
`times` is how often a way's time or memory the plain form takes. With --growth one setting changes at a time, from 32
frames, 16 tokens, all layers, one video, and memory includes the layers' outputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _bench import Ways, about, add_common, dtype_of, machine, peak_bytes, show, side_by_side, table
from torch import Tensor, nn

from llava_ego2exo.config import default_grid
from llava_ego2exo.method.attention import CrossAttention, _flash_runs
from llava_ego2exo.method.ego_tokens import EgoAdaptiveTokens
from llava_ego2exo.method.encoder_block import tower_layer

WIDTH, HEADS, PATCHES, LAYERS = 1152, 16, 729, 26
PLAIN = "K and V projected"
START = {"frames": 32, "tokens": 16, "layers": LAYERS, "batch": 1}
GROWTH = {
    "frames": (8, 16, 32, 64, 128, 180), "tokens": (4, 8, 16, 32, 64), "layers": (7, 13, 26), "batch": (1, 2, 4, 8),
}  # fmt: skip


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

    def forward(self, states: list[Tensor], lengths: list[int]) -> Tensor:
        """States (frames, patches, D) a layer -> (1, P, D)."""
        tokens = self.tokens[None]
        for h, (q, k, v, out) in zip(states, self.layers, strict=True):
            h = h.flatten(0, 1)[None]
            heads = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q(tokens), k(h), v(h))]
            tokens = out(nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return tokens


class Visit(nn.Module):
    """The encoder block with as many tokens and layers, and a random SigLIP."""

    def __init__(self, ours: EgoAdaptiveTokens, mlp: bool) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        super().__init__()
        count = ours.num_tokens
        sizes = {"hidden_size": WIDTH, "intermediate_size": 4304, "num_attention_heads": HEADS}
        tower = SiglipVisionModel(SiglipVisionConfig(num_hidden_layers=len(ours.layers), **sizes))
        self.encoder = tower.vision_model.encoder.requires_grad_(False)
        options = {"block": "encoder", "grid": default_grid(count), "time_bias": True, "mlp": mlp}
        self.reader = EgoAdaptiveTokens(count, WIDTH, HEADS, ours.layers, **options)

    def forward(self, states: list[Tensor], lengths: list[int]) -> Tensor:
        """As :meth:`Plain.forward`, of what enters each layer."""
        return self.reader(states, lengths, tower=[tower_layer(layer) for layer in self.encoder.layers])


def main() -> int:
    """Print seconds, peaks and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common(parser)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--tokens", type=int, default=16, help="P")
    parser.add_argument("--layers", type=int, help=f"(default: {LAYERS} on a GPU, 2 on a CPU)")
    parser.add_argument("--growth", action="store_true", help="change one setting at a time")
    parser.add_argument("--plot", type=Path, help="with --growth: picture to write (.png or .svg)")
    args = parser.parse_args()
    found = {"machine": machine(args.device), "dtype": str(dtype_of(args)).removeprefix("torch.")}
    if args.growth:
        growth(args, found)
        return 0
    args.layers = args.layers or (LAYERS if args.device.startswith("cuda") else 2)
    found |= {"layers": args.layers, "tokens": args.tokens, "ways": {n: measure(args, n) for n in args.frames}}
    rows = [
        [frames, name, *(f"{one[key]:.3f} s" for key in ("forward s", "training s")),
         *(f"{one[key] / 2**20:.1f} MiB" for key in ("forward peak", "training peak", "kept")),
         *(f"{ways[PLAIN][key] / one[key]:.2f}" for key in ("forward s", "training s", "training peak"))]
        for frames, ways in found["ways"].items() for name, one in ways.items()
    ]  # fmt: skip
    heads = ["frames", "way", "forward", "with backward", "peak forward", "peak with backward", "kept beside h"]
    show(
        args, found, [about(found), "", *table([*heads, "times forward", "times with backward", "times memory"], rows)]
    )
    return 0


def measure(args: argparse.Namespace, frames: int) -> dict:
    """Of each way: seconds and peak bytes, forward alone and with backward, and bytes kept between the two."""
    torch.manual_seed(0)
    made = {"device": args.device, "dtype": dtype_of(args)}
    states = [torch.randn(frames, PATCHES, WIDTH, **made) for _ in range(args.layers)]
    ours = EgoAdaptiveTokens(args.tokens, WIDTH, HEADS, range(args.layers)).to(**made)
    modules = {PLAIN: Plain(ours).to(**made), "auto": ours, **folded_and_others(ours, states[0])}
    wanted = modules[PLAIN](states, [frames]).detach().float()
    forward: Ways = {}
    both: Ways = {}
    visits = {f"encoder block{end}": Visit(ours, not end).to(**made) for end in ("", ", no MLPs")}
    for name, module in {**modules, **visits}.items():
        off = (module(states, [frames]).detach().float() - wanted).norm() / wanted.norm()
        if name not in visits and off > (1e-5 if made["dtype"] == torch.float32 else 5e-2):
            raise SystemExit(f"{name} differs from {PLAIN} by {off:.1e}")
        forward[name] = torch.no_grad()(lambda m=module: m(states, [frames]))
        both[name] = lambda m=module: m(states, [frames]).float().sum().backward()
        both[name]()  # the parameters' gradients are there before any memory is measured
    modules |= visits
    keys = ("forward s", "training s", "forward peak", "training peak")
    values = [side_by_side(ways, args.rounds, args.device) for ways in (forward, both)]
    values += [{name: peak_bytes(run, args.device) for name, run in ways.items()} for ways in (forward, both)]
    found = {name: dict(zip(keys, (value[name] for value in values), strict=True)) for name in modules}
    for name, module in modules.items():
        found[name]["kept"] = kept_bytes(module, states, frames)
    return found


def folded_and_others(ours: EgoAdaptiveTokens, states: Tensor) -> dict[str, EgoAdaptiveTokens]:
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
    return {**ways, "flash": way("flash")} if _flash_runs(states, WIDTH // HEADS) else ways


def kept_bytes(module: nn.Module, states: list[Tensor], frames: int) -> int:
    """Bytes that autograd keeps from forward to backward, the given states and the parameters apart."""
    known = {t.untyped_storage().data_ptr() for t in [*states, *module.parameters()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(states, [frames])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def growth(args: argparse.Namespace, found: dict) -> None:
    """Print time and memory of forward and backward by setting, and draw them."""
    sizes = (WIDTH, HEADS, PATCHES) if args.device.startswith("cuda") else (WIDTH // 4, HEADS // 4, 100)
    found |= {
        "width, heads, patches": ", ".join(map(str, sizes)),
        "elsewhere": ", ".join(f"{k} {v}" for k, v in START.items()),
    }
    found["growth"] = {
        name: {step: grown(args, sizes, {**START, name: step}) for step in GROWTH[name]} for name in GROWTH
    }
    rows = [[name, step, f"{one['seconds']:.3f} s", f"{one['peak'] / 2**20:.1f} MiB"]
            for name, steps in found["growth"].items() for step, one in steps.items()]  # fmt: skip
    show(
        args,
        found,
        [about(found), "", *table(["what", "setting", "forward and backward", "peak with the layers' outputs"], rows)],
    )
    if args.plot:
        draw(found["growth"], args.plot)


def grown(args: argparse.Namespace, sizes: tuple[int, int, int], setting: dict[str, int]) -> dict[str, float]:
    """Median seconds of forward and backward, and peak bytes with the layers' outputs."""
    width, heads, patches = sizes
    made = {"device": args.device, "dtype": dtype_of(args)}
    layers = range(0, LAYERS, -(-LAYERS // setting["layers"]))
    lengths = [setting["frames"]] * setting["batch"]
    reader = EgoAdaptiveTokens(setting["tokens"], width, heads, layers).to(**made)
    states = {i: torch.randn(sum(lengths), patches, width, **made) for i in layers}

    def run() -> None:
        reader(states, lengths).float().sum().backward()

    seconds = side_by_side({"run": run}, args.rounds, args.device)["run"]
    return {"seconds": seconds, "peak": peak_bytes(run, args.device) + sum(h.nbytes for h in states.values())}


def draw(growth: dict, path: Path) -> None:
    """Four panels of time above four of memory; a thin line shows growth in proportion, from the smallest setting."""
    from llava_ego2exo.common.pages import drawing

    with drawing(10, 4.6) as figure:
        axes = figure.subplots(2, 4, sharey="row")
        for column, (name, steps) in enumerate(growth.items()):
            at = list(steps)
            for row, (key, unit) in enumerate((("seconds", 1), ("peak", 2**20))):
                values, panel = [one[key] / unit for one in steps.values()], axes[row][column]
                panel.plot(at, [values[0] * x / at[0] for x in at], color="#bbbbbb", linewidth=0.8)
                panel.plot(at, values, color="#1f6f8b", marker="o", markersize=3)
                panel.set(xscale="log", yscale="log", xticks=at, xticklabels=at)
                panel.minorticks_off()
            axes[1][column].set_xlabel(name)
        axes[0][0].set_ylabel("seconds")
        axes[1][0].set_ylabel("peak MiB")
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
