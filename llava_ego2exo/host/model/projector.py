"""The projector: registered types where LLaVA chooses by `mm_projector_type`, and the ego branch inside it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...config import PREFIX, Ego2ExoConfig, base_type, other_settings
from ...errors import Ego2ExoError
from ...method.ego_tokens import EgoAdaptiveTokens, EgoBranch
from ...registry import PROJECTORS
from ..checkpoint.safety import only_weights
from ..hooks.flavour import original_projector_builder
from ..settings import SEED
from .vision import TowerFacts, check_grid, inspect_tower, tower_layers

CHILD = "ego_tokens"
_FACTS = {
    "num_layers": "ego2exo_vision_layers", "width": "ego2exo_vision_width", "num_heads": "ego2exo_vision_heads",
    "used_layers": "ego2exo_vision_used_layers",
}  # fmt: skip


class EgoSequential(nn.Sequential):
    """LLaVA's own Sequential, state-dict names included, whose forward passes by the ego branch."""

    def forward(self, input: Tensor) -> Tensor:
        for name, module in self._modules.items():
            if name != CHILD:
                input = module(input)
        return input


def ego_branch(projector: Any) -> EgoBranch | None:
    """The ego branch inside a projector, or None."""
    return getattr(projector, CHILD, None) if projector is not None else None


def store(config: Any, flags: Ego2ExoConfig, facts: TowerFacts) -> None:
    """Write flags and encoder sizes into a model's config, from where a checkpoint is built again."""
    config.ego2exo = True
    grid = {f"{PREFIX}grid": flags.grid_text}  # also where it is the default, which may be another one some day
    for key, value in {**flags.to_dict(), **grid, **{_FACTS[k]: v for k, v in vars(facts).items()}}.items():
        setattr(config, key, value)


def stored_facts(config: Any) -> TowerFacts:
    """The encoder sizes a checkpoint was trained with, refused where its config names an ego projector without them."""
    missing = [key for name, key in _FACTS.items() if not hasattr(config, key) and name != "used_layers"]
    if missing:
        raise Ego2ExoError(
            f"mm_projector_type {config.mm_projector_type!r} without {', '.join(missing)} in the config",
            "a config written by an --ego2exo run",
            "restore the checkpoint's own config.json",
        )
    return TowerFacts(**{name: getattr(config, key, None) for name, key in _FACTS.items()})


def wrap_builder(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """LLaVA's `build_vision_projector` with registered types, and any type behind the prefix `ego2exo_`."""

    @functools.wraps(original)
    def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> nn.Module:
        projector_type = getattr(config, "mm_projector_type", "linear")
        if projector_type in PROJECTORS:
            return PROJECTORS.get(projector_type)(config, delay_load=delay_load, **kwargs)
        if not projector_type.startswith(PREFIX):
            return original(config, delay_load=delay_load, **kwargs)
        projector = build_base(original, config, delay_load=delay_load, **kwargs)
        branch = build_branch(original, config, Ego2ExoConfig.from_object(config), stored_facts(config))
        return attach(projector, branch)

    return build_vision_projector


def build_base(original: Callable[..., nn.Module], config: Any, **kwargs: Any) -> nn.Module:
    """The projector of the type behind the prefix, built by its registered builder or by LLaVA."""
    plain = copy.copy(config)
    plain.mm_projector_type = base_type(config.mm_projector_type)
    if plain.mm_projector_type in PROJECTORS:
        return PROJECTORS.get(plain.mm_projector_type)(plain, **kwargs)
    try:
        return original(plain, **kwargs)
    except ValueError as error:
        raise _unknown_type(plain.mm_projector_type) from error


def check_type(projector_type: str, original: Callable[..., nn.Module]) -> None:
    """Build the type once at width 1, so that a name LLaVA does not know is found before any weight loads."""

    class _Sizes:
        mm_projector_type = PREFIX + base_type(projector_type)
        mm_hidden_size = hidden_size = 1

    if base_type(projector_type) == "pooler":
        raise _unknown_type("pooler")
    if base_type(projector_type) not in PROJECTORS:
        build_base(original, _Sizes())


def _unknown_type(name: str) -> Ego2ExoError:
    known = ["linear", "mlp<N>x_gelu", "mlp<N>x_res<M>x_gelu", "identity", *PROJECTORS]
    reason = "pools patches, which ego tokens are not" if name == "pooler" else "is not known to LLaVA"
    return Ego2ExoError(
        f"mm_projector_type {PREFIX + name!r}: {name!r} {reason}",
        ", ".join(PREFIX + kind for kind in known),
        "pass the base checkpoint's own type, usually mlp2x_gelu",
    )


def build_reader(flags: Ego2ExoConfig, facts: TowerFacts) -> EgoAdaptiveTokens:
    """The reader alone, at the encoder's width.

    Raises:
        Ego2ExoError: layers that are not there, or that LLaVA does not run up to one place.
    """
    encoder = flags.block == "encoder"
    if encoder and not facts.used_layers:
        require_one_layer(flags)
    return EgoAdaptiveTokens(
        flags.num_tokens, facts.width, facts.num_heads,
        flags.layer_indices(facts.used_layers if encoder else facts.num_layers),
        flags.block, flags.attn, flags.key_embedding, flags.grid_cells, encoder and flags.time_bias, flags.mlp,
    )  # fmt: skip


def require_one_layer(flags: Ego2ExoConfig) -> None:
    """Refuse what needs one layer that the ordinary visual tokens come from, where LLaVA joins several, or takes none.

    Raises:
        Ego2ExoError: the encoder block, or a copy of the projector.
    """
    name = next((name for name in ("block", "init") if getattr(flags, name) == "encoder"), None)
    if name is not None:
        raise Ego2ExoError(
            f"--ego2exo_{name} encoder with visual tokens that do not come from one layer of the vision tower",
            "--mm_vision_select_feature patch or cls_patch with a layer after the first",
            "use --ego2exo_block cross_attention or transformer with --ego2exo_init random",
        )


def build_branch(original: Callable[..., nn.Module], config: Any, flags: Ego2ExoConfig, facts: TowerFacts) -> EgoBranch:
    """The ego branch for a model config: reader at the encoder's width, projector of the ordinary type."""
    reader = build_reader(flags, facts)
    sized = copy.copy(config)
    # Towers that join several layers (slice...) widen mm_hidden_size; one ego token is one encoder width.
    sized.mm_hidden_size = facts.width
    sized.mm_projector_type = PREFIX + base_type(config.mm_projector_type)
    if base_type(config.mm_projector_type) == "identity" and facts.width != config.hidden_size:
        raise Ego2ExoError(
            f"mm_projector_type identity with encoder width {facts.width} and LLM width {config.hidden_size}",
            "equal widths",
            "use mlp2x_gelu",
        )
    return EgoBranch(reader, build_base(original, sized))


def attach(projector: nn.Module, branch: EgoBranch) -> nn.Module:
    """Put the branch into a projector in place; its own parameters keep their names and its forward its result."""
    projector.add_module(CHILD, branch)
    if type(projector) is nn.Sequential:
        projector.__class__ = EgoSequential
    return projector


def wrap_initialize(original: Callable[..., None]) -> Callable[..., None]:
    """LLaVA's `initialize_vision_modules`, which gives a model in training its tower and projector.

    First its own work on the ordinary projector type, then the ego branch, then adapter files.
    """

    @functools.wraps(original)
    def initialize_vision_modules(self: Any, model_args: Any, fsdp: Any = None) -> None:
        wanted = getattr(model_args, "ego2exo", False) or getattr(self.config, "ego2exo", False)
        if not wanted and not str(model_args.mm_projector_type).startswith(PREFIX):
            original(self, model_args, fsdp)
            if getattr(model_args, "ego2exo_pool", None) is not None:  # else a checkpoint keeps its own
                self.config.ego2exo_pool = model_args.ego2exo_pool
            return
        adapter, model_args.pretrain_mm_mlp_adapter = model_args.pretrain_mm_mlp_adapter, None
        model_args.mm_projector_type = base_type(model_args.mm_projector_type)
        original(self, model_args, fsdp)
        fresh = _ensure_branch(self, model_args)
        if adapter is not None:
            stock = _load_adapter(self, model_args, fsdp, adapter, original)
            fresh = fresh and stock
        if fresh and self.config.ego2exo_init == "encoder":
            _copy_start(self)
        self.config.mm_projector_type = PREFIX + base_type(model_args.mm_projector_type)
        for parameter in self.mm_projector.parameters():
            parameter.requires_grad_(True)

    return initialize_vision_modules


def _ensure_branch(model: Any, model_args: Any) -> bool:
    """Attach a fresh branch, or check that the checkpoint's own fits the flags and the tower; whether it is fresh."""
    facts = inspect_tower(model.get_vision_tower())
    trained = getattr(model.config, "ego2exo", False)
    # Without --ego2exo an ego checkpoint keeps its own settings.
    flags = Ego2ExoConfig.from_object(
        model_args if getattr(model_args, "ego2exo", False) or not trained else model.config
    )
    if flags.block == "encoder":
        tower_layers(model.get_vision_tower())
        check_grid(flags, model.get_vision_tower().num_patches_per_side)
    else:
        facts = dataclasses.replace(facts, used_layers=None)
    fresh = ego_branch(model.mm_projector) is None
    if fresh:
        reference = next(model.mm_projector.parameters(), torch.empty(0))
        branch = build_branch(original_projector_builder(), model.config, flags, facts)
        branch.reset_parameters(SEED.get())
        attach(model.mm_projector, branch.to(reference.device, reference.dtype))
    else:
        lines, trained_on = Ego2ExoConfig.from_object(model.config).differences(flags), stored_facts(model.config)
        if trained_on != facts:
            lines.append(f"vision encoder: {trained_on} / {facts}")
        if lines:
            raise other_settings(lines)
        ego_branch(model.mm_projector).reader.set_attn(flags.attn)  # type: ignore[union-attr]  # shapes no weights
    store(model.config, flags, facts)
    return fresh


def _copy_start(model: Any) -> None:
    """Start the branch from the encoder's attention and from the ordinary projector."""
    branch, weights = ego_branch(model.mm_projector), model.mm_projector.state_dict()
    own = {name: value for name, value in weights.items() if not name.startswith(CHILD + ".")}
    shapes = {name: value.shape for name, value in branch.projector.state_dict().items()}
    if shapes != {name: value.shape for name, value in own.items()}:
        require_one_layer(Ego2ExoConfig.from_object(model.config))
    branch.projector.load_state_dict(own)
    if branch.reader.layers:
        branch.reader.copy_attention(tower_layers(model.get_vision_tower()))


def _load_adapter(model: Any, model_args: Any, fsdp: Any, path: str, original: Callable[..., None]) -> bool:
    """Let LLaVA load a projector file into the extended projector; a stock file may lack the ego keys, all or none.

    Returns:
        Whether it lacks them.
    """
    stock = False

    def allow_stock(_module: Any, incompatible: Any) -> None:
        nonlocal stock
        ego = {key for key in model.mm_projector.state_dict() if key.startswith(CHILD + ".")}
        if ego <= set(incompatible.missing_keys):
            stock = True
            incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in ego]

    handle = model.mm_projector.register_load_state_dict_post_hook(allow_stock)
    model_args.pretrain_mm_mlp_adapter = path
    try:
        with only_weights():
            original(model, model_args, fsdp)
    finally:
        handle.remove()
    return stock
