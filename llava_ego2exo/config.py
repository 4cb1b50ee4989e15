"""Flags of the ego tokens, once: command line, checkpoint `config.json` and constructors read these dataclasses."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .errors import Ego2ExoError

if TYPE_CHECKING:
    from typing_extensions import Self

PREFIX = "ego2exo_"
# Of each the first is the default.
BLOCKS = ("encoder", "cross_attention", "transformer", "constant")
INITS = ("encoder", "random")
ATTENTIONS = ("auto", "folded", "sdpa", "flash")
STATES = ("keep", "offload", "recompute")
KEY_EMBEDDINGS = ("none", "frame", "frame+position")
PLACES = ("behind", "front")
MODALITIES = ("video", "image")

# Settings under one name (`--ego2exo_preset`); `paper` is that of arXiv 2501.05711.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "block": "cross_attention", "init": "encoder", "layers": "all", "key_embedding": "none", "bottleneck": 0.0,
    },
}  # fmt: skip

# What may change when training continues from an ego checkpoint; everything else shapes the weights.
_FREE = ("init", "attn", "states", "lr", "visual_tokens", "pool", "modalities")
# Flags that only some blocks have.
_OF_BLOCKS = {name: {"encoder"} for name in ("grid", "time_bias", "mlp")}
_OF_BLOCKS |= {name: {*BLOCKS} - {"constant"} for name in ("layers", "key_embedding")}


def flag_field(default: Any, text: str) -> Any:
    """A flag's default, and its text of `--help` and docs/flags.md."""
    return field(default=default, metadata={"help": text})


def default_grid(num_tokens: int) -> tuple[int, int, int]:
    """Cells in time, rows and columns for so many tokens: 2 x 2 in space where 4 divides their number."""
    return (num_tokens // 4, 2, 2) if num_tokens % 4 == 0 else (num_tokens, 1, 1)


def base_type(projector_type: str) -> str:
    """The ordinary projector type behind the prefix."""
    return projector_type.removeprefix(PREFIX)


class FlagGroup:
    """A group of flags; they are stored and read under their names with the prefix ``ego2exo_``."""

    def to_dict(self) -> dict[str, Any]:
        """Each value under its flag's name, as in a checkpoint's `config.json`."""
        return {PREFIX + key: value for key, value in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_object(cls, source: Any) -> Self:
        """Read the flags from anything that carries them as attributes (parsed arguments, a model's config)."""
        names = [f.name for f in fields(cls) if hasattr(source, PREFIX + f.name)]  # type: ignore[arg-type]
        return cls(**{name: getattr(source, PREFIX + name) for name in names})


def is_whole(value: Any, lowest: int) -> bool:
    """Whether a flag's value is a whole number from `lowest`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


@dataclass(frozen=True)
class Ego2ExoConfig(FlagGroup):
    """The plugin's flags, under their names without the prefix ``ego2exo_`` (paper section 3.2 for the tokens).

    Raises:
        Ego2ExoError: a value that no run can use.
    """

    num_tokens: int = flag_field(16, "P: how many learnable ego tokens each video gets.")
    layers: str = flag_field("all", "Encoder layers the tokens read: `all`, or zero-based numbers as in `0,4,8`.")
    block: str = flag_field(
        BLOCKS[0],
        "What reads a layer: `cross_attention` (plain, the paper's), `transformer`, `encoder` (the tokens pass through "
        "the encoder as patches do), or `constant` (nothing does: trained tokens alone, to compare with).",
    )
    init: str = flag_field(
        INITS[0], "Start of attention and projector: `random`, or `encoder`: copies of the encoder's and the base's."
    )
    grid: str | None = flag_field(
        None,
        "For `encoder`: cells in time, rows and columns, `TxRxC`, whose averages the tokens start from, or `none`; "
        "unset: for P tokens (P/4)x2x2 where 4 divides P, else Px1x1. Cells beyond a clip's frames share them.",
    )
    time_bias: bool = flag_field(True, "For `encoder`: prefer frames near a token's own time, trained.")
    mlp: bool = flag_field(True, "For `encoder`: the tokens pass the encoder's MLPs too.")
    attn: str = flag_field("auto", "How attention is computed: `auto` (by count), `folded`, `sdpa` or `flash`.")
    states: str = flag_field(
        "keep", "What backward needs of the encoder's layers: `keep`, `offload` to the host's memory, or `recompute`."
    )
    visual_tokens: bool = flag_field(True, "Pass the ordinary visual tokens too; False passes the ego tokens alone.")
    pool: str | None = flag_field(
        None, "`RxC`: average-pool a video's ordinary visual tokens to R rows, C columns a frame; unset: as LLaVA does."
    )
    place: str = flag_field(
        PLACES[0], "Where the ego tokens stand: `behind` their video's visual tokens, or in `front`."
    )
    modalities: str = flag_field("video", "What gets ego tokens: `video`, `image` or `video,image`.")
    key_embedding: str = flag_field("none", "What is added to the keys: `none`, `frame` or `frame+position`.")
    lr: float | None = flag_field(None, "Learning rate of the ego tokens; unset: learning_rate.")

    def __post_init__(self) -> None:
        if not is_whole(self.num_tokens, 1):
            raise Ego2ExoError(
                f"--ego2exo_num_tokens {self.num_tokens}", "a whole number from 1", "leave it out for 16"
            )
        choices = {"block": BLOCKS, "init": INITS, "attn": ATTENTIONS, "states": STATES}
        choices |= {"key_embedding": KEY_EMBEDDINGS, "place": PLACES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise Ego2ExoError(
                    f"--ego2exo_{name} {getattr(self, name)}", ", ".join(allowed), f"leave it out for {allowed[0]}"
                )
        if not self.modality_set or not self.modality_set <= set(MODALITIES):
            raise Ego2ExoError(f"--ego2exo_modalities {self.modalities!r}", "video, image, or both with a comma")
        for name in ("visual_tokens", "time_bias", "mlp"):
            if not isinstance(getattr(self, name), bool):
                raise Ego2ExoError(f"--ego2exo_{name} {getattr(self, name)!r}", "True or False")
        if self.pool is not None and not re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", str(self.pool)):
            given = f"--ego2exo_pool {self.pool!r}"
            raise Ego2ExoError(given, "rows x columns from 1, as in `2x2`", "leave it out to pool as LLaVA does")
        if self.lr is not None and not 0 < self.lr < 1:
            raise Ego2ExoError(f"--ego2exo_lr {self.lr}", "a number above 0 and below 1", "leave it out to inherit")
        self.layer_indices(None)
        self._check_block()

    def _check_block(self) -> None:
        for flag in fields(self):
            blocks, value = _OF_BLOCKS.get(flag.name, BLOCKS), getattr(self, flag.name)
            if self.block not in blocks and value != flag.default:
                raise not_of_block(flag.name, value, self.block)
        cells = self.grid_cells
        if cells is not None and cells[0] * cells[1] * cells[2] != self.num_tokens:
            raise Ego2ExoError(
                f"--ego2exo_grid {self.grid} with --ego2exo_num_tokens {self.num_tokens}",
                "TxRxC, whole numbers whose product is the number of tokens, or none",
                "leave it out for the default",
            )
        if self.block == "encoder" and self.time_bias and self.attn == "flash":
            raise Ego2ExoError(
                "--ego2exo_attn flash with --ego2exo_block encoder, whose time bias flash-attn cannot add",
                "auto, folded, sdpa",
                "use auto, or --ego2exo_time_bias False",
            )

    @property
    def grid_cells(self) -> tuple[int, int, int] | None:
        """Cells in time, rows and columns that the tokens start from; None: from none."""
        if self.block != "encoder" or self.grid == "none":
            return None
        if self.grid is None:
            return default_grid(self.num_tokens)
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", str(self.grid))
        return (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)

    @property
    def grid_text(self) -> str | None:
        """The grid as its flag is written, the default one too; None for a block that has none."""
        cells = self.grid_cells
        return self.grid if cells is None else "x".join(map(str, cells))

    @property
    def modality_set(self) -> frozenset[str]:
        return frozenset(part.strip() for part in self.modalities.split(",") if part.strip())

    @property
    def pool_size(self) -> tuple[int, int] | None:
        """Rows and columns of a video's pooled frame; None: as LLaVA does."""
        if self.pool is None:
            return None
        rows, columns = map(int, self.pool.split("x"))
        return rows, columns

    def layer_indices(self, num_layers: int | None) -> tuple[int, ...]:
        """The chosen layers, ascending, of an encoder with `num_layers`; None checks the form alone.

        Raises:
            Ego2ExoError: empty, not numbers, given twice, or out of range.
        """
        remedy = "use `all`, or zero-based layer numbers as in `0,4,8`"
        if self.layers.strip() == "all":
            return tuple(range(num_layers or 0))
        parts = [part.strip() for part in self.layers.split(",")]
        upper = "" if num_layers is None else f" to {num_layers - 1} (the tokens can read {num_layers} layers)"
        allowed = f"`all`, or numbers from 0{upper}, each once"
        if not all(part.isdigit() for part in parts):
            raise Ego2ExoError(f"--ego2exo_layers {self.layers!r} is not a list of numbers", allowed, remedy)
        indices = [int(part) for part in parts]
        if len(set(indices)) < len(indices):
            raise Ego2ExoError(f"--ego2exo_layers {self.layers!r} names a layer twice", allowed, remedy)
        if num_layers is not None and max(indices) >= num_layers:
            raise Ego2ExoError(f"--ego2exo_layers {self.layers!r} is out of range", allowed, remedy)
        return tuple(sorted(indices))

    def differences(self, other: Ego2ExoConfig) -> list[str]:
        """Flags whose values differ and shape the weights, as lines ``name: own value / other value``."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self) if f.name not in _FREE}
        del pairs["grid"]
        if self.num_tokens == other.num_tokens:  # else the grids differ anyway
            pairs["grid"] = (self.grid_text, other.grid_text)  # one grid may be written in two ways
        return [f"{PREFIX}{name}: {own} / {others}" for name, (own, others) in pairs.items() if own != others]


def not_of_block(name: str, value: Any, block: str) -> Ego2ExoError:
    """The error for a flag that blocks alone have of which this is none."""
    having = ", ".join(one for one in BLOCKS if one in _OF_BLOCKS[name])
    return Ego2ExoError(
        f"--ego2exo_{name} {value} with --ego2exo_block {block}",
        f"--ego2exo_{name} with --ego2exo_block {having}",
        f"leave --ego2exo_{name} out, or choose another block",
    )


def check_given(given: Collection[str], values: Mapping[str, Any]) -> None:
    """Refuse flags that were given for a block that has none, with their default value too."""
    for name, blocks in _OF_BLOCKS.items():
        if PREFIX + name in given and values[f"{PREFIX}block"] not in blocks:
            raise not_of_block(name, values[PREFIX + name], values[f"{PREFIX}block"])


def other_settings(lines: list[str]) -> Ego2ExoError:
    """The error for flags that do not fit the checkpoint's weights; `lines` of :meth:`Ego2ExoConfig.differences`."""
    return Ego2ExoError(
        f"the checkpoint was trained with other settings than the flags (checkpoint / flags): {'; '.join(lines)}",
        "the checkpoint's own settings",
        "leave these flags out to inherit them, or start from a checkpoint without ego tokens",
    )
