"""How one checkpoint will be asked, and whether it can be: everything that is known before its first weight loads."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ..errors import Ego2ExoError
from ..runs.settings import Settings


def how_asked(
    path: str, base: str | None, template: str | None, dtype: str | None, bits: int, force_sample: bool | None,
    time_instruction: bool | None, max_new_tokens: int = 256, **others: Any,
) -> Settings:  # fmt: skip
    """Settings for one checkpoint; what is None is taken from it.

    Args:
        path: folder or hub name of the checkpoint.
        base: what it was trained from, where it holds no whole model.
        template: LLaVA's conversation template; None: that of its class where only one fits.
        dtype: of weights that are not quantized; None: bfloat16 on a GPU, else float32.
        bits: 4, 8 or 16.
        force_sample: always take the most frames; None: as its config says.
        time_instruction: tell it the times of the frames; None: as its config says.
        max_new_tokens: most tokens of an answer.
        others: further fields of `Settings`.

    Raises:
        Ego2ExoError: no llava, no config, the wrong base, no template, no room for clips, a package is missing.
    """
    import torch

    from .checkpoints import describe
    from .config_file import read_config
    from .context_length import require_room
    from .flavour import package_folder
    from .loading import check_base
    from .templates import choose_template

    package_folder()
    config = read_config(path)
    check_base(describe(path), base, config)
    require_room(config, max_new_tokens)
    _need("decord", "av", *(("bitsandbytes",) if bits < 16 else ()))
    return Settings(
        template=choose_template(path, template),
        dtype=dtype or ("bfloat16" if torch.cuda.is_available() else "float32"),
        bits=bits,
        force_sample=_own(force_sample, config, "force_sample"),
        time_instruction=_own(time_instruction, config, "add_time_instruction"),
        max_new_tokens=max_new_tokens,
        **others,
    )


def _own(given: bool | None, config: dict[str, Any], key: str) -> bool:
    return bool(config.get(key, False)) if given is None else given


def _need(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Ego2ExoError(f"{', '.join(missing)} is not installed", "", f"pip install {' '.join(missing)}")
