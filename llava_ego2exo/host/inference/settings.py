"""How a model is asked: settings, conversation template, and the tokens that end an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from ...errors import Ego2ExoError, refuse
from ...video.cache import ReaderSettings

DTYPES = ("float32", "bfloat16", "float16")
BITS = (4, 8, 16)


@dataclass(frozen=True)
class InferenceSettings:
    """How a model is asked, part of every answer's key; fields as in :class:`InferenceOptions`, none left open."""

    template: str
    frames_upbound: int = 32
    video_fps: int = 1
    force_sample: bool = False
    time_instruction: bool = False
    max_new_tokens: int = 256
    bits: int = 16
    dtype: str = "float32"

    def __post_init__(self) -> None:
        bound = "1 or more, which is then the number of frames of every clip"
        refuse(
            (self.frames_upbound < 0, f"--frames-upbound {self.frames_upbound}", "0 (no bound) or more", ""),
            (self.video_fps < 1, f"--video-fps {self.video_fps}", "1 or more", ""),
            (self.max_new_tokens < 1, f"--max-new-tokens {self.max_new_tokens}", "1 or more", ""),
            (self.bits not in BITS, f"--bits {self.bits}", ", ".join(map(str, BITS)), ""),
            (self.dtype not in DTYPES, f"--dtype {self.dtype}", ", ".join(DTYPES), ""),
            (self.force_sample and not self.frames_upbound, "--force-sample True with --frames-upbound 0", bound, ""),
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.to_dict().items())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """What a user chooses of a run that asks models about clips.

    Args:
        template: LLaVA's conversation template; None: that of the checkpoint's class where only one fits.
        dtype: of weights that are not quantized; None: bfloat16 on a GPU, else float32.
        bits: 4, 8 or 16.
        frames_upbound: most frames of a clip; 0 for no bound.
        video_fps: frames taken a second.
        force_sample: always take `frames_upbound` frames; None: from the checkpoint's config.
        time_instruction: give the model the clip's length and the times of its frames, as LLaVA-Video was trained;
            None: from the checkpoint's config.
        batch_size: clips that go through the model together, each with all its questions.
        workers: threads that read clips.
        reading: how they are read.
        max_failures: how many may fail before the run counts as failed.
        image_side, image_quality: of the JPEG pictures that a served model gets; side 0: as they are.
        api_key_env: environment variable with a served model's key.
    """

    template: str | None = None
    dtype: str | None = None
    bits: int = 16
    frames_upbound: int = 32
    video_fps: int = 1
    force_sample: bool | None = None
    time_instruction: bool | None = None
    batch_size: int = 1
    workers: int = 2
    reading: ReaderSettings = ReaderSettings()
    max_failures: int = 0
    image_side: int = 0
    image_quality: int = 90
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        self.require_at_least(batch_size=1, workers=1, max_failures=0, image_side=0, image_quality=1)

    def require_at_least(self, **least: int) -> None:
        """Refuse fields below their least value."""
        for name, value in least.items():
            if getattr(self, name) < value:
                raise Ego2ExoError(f"--{name.replace('_', '-')} {getattr(self, name)}", f"{value} or more")


def resolve_inference_settings(
    path: str, base: str | None = None, options: InferenceOptions | None = None, max_new_tokens: int = 256,
    config: Mapping[str, Any] | None = None,
) -> InferenceSettings:  # fmt: skip
    """Settings for one checkpoint, checked before its first weight loads; what is None is taken from its config.

    Args:
        path: folder or hub name of the checkpoint.
        base: what it was trained from, where it holds no whole model.
        options: what the user chose; None: nothing.
        max_new_tokens: most tokens of an answer.
        config: of a model that is loaded already, whose files and packages are not checked; None: that of `path`.

    Raises:
        Ego2ExoError: no llava, no config, the wrong base, no template, no room for clips, a package is missing.
    """
    import torch

    options = options or InferenceOptions()
    if config is None:
        config = _checked_config(path, base, options.bits)
    force_sample, times = options.force_sample, options.time_instruction
    dtype = options.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    settings = InferenceSettings(
        template=choose_template(config, path, options.template),
        frames_upbound=options.frames_upbound, video_fps=options.video_fps,
        force_sample=bool(config.get("force_sample")) if force_sample is None else force_sample,
        time_instruction=bool(config.get("add_time_instruction")) if times is None else times,
        max_new_tokens=max_new_tokens, bits=options.bits, dtype=dtype,
    )  # fmt: skip
    context = positions(config)
    if context is not None and max_new_tokens >= context:
        raise Ego2ExoError(
            f"--max-new-tokens {max_new_tokens}, and the model has {context} positions for clip, query and answer",
            "what leaves room for the clip and the query",
            "give a smaller --max-new-tokens",
        )
    return settings


def _checked_config(path: str, base: str | None, bits: int) -> dict[str, Any]:
    from ..checkpoint.config import read_config
    from ..checkpoint.files import describe
    from ..hooks.flavour import package_folder
    from ..loader import check_base

    package_folder()
    config = read_config(path)
    check_base(describe(path), base, config, "--model-base")
    missing = [name for name in ("av", *(("bitsandbytes",) if bits < 16 else ())) if find_spec(name) is None]
    if missing:
        raise Ego2ExoError(f"{', '.join(missing)} is not installed", "", f"pip install {' '.join(missing)}")
    return config


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions of a model by its config.json; None where that has no such entry."""
    context = config.get("max_position_embeddings")
    factor = (config.get("rope_scaling") or {}).get("factor") or 1
    return int(context * factor) if context else None


# Classes that LLaVA trains with one template alone. Llama and Mistral models come with many.
CERTAIN = {"llava_qwen": "qwen_1_5", "llava_gemma": "gemma_instruct"}


def prompt(
    question: str, template: str, marks: bool = False, earlier: Sequence[tuple[str, str]] = (), system: str = ""
) -> str:
    """The question in one of LLaVA's conversation templates, up to where the answer begins.

    Args:
        question: without placeholder.
        template: its name.
        marks: whether the model was trained with `--mm_use_im_start_end True` (`mm_use_im_start_end` of its config).
        earlier: questions and answers before it; the video stands in front of the first question.
        system: in the place of the template's own system prompt; "": that.
    """
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN
    from llava.conversation import conv_templates

    conversation = conv_templates[template].copy()
    if hasattr(conversation, "tokenizer"):
        # LLaVA-NeXT's copy forgets it, and its Llama 3 template writes with it.
        conversation.tokenizer = conv_templates[template].tokenizer
    if system:
        head, own, _ = conversation.system.partition("\n")
        conversation.system = f"{head}\n{system}" if own and head.startswith("<|") else system
    image = f"{DEFAULT_IM_START_TOKEN}<image>{DEFAULT_IM_END_TOKEN}" if marks else "<image>"
    for number, (asked, answer) in enumerate([*earlier, (question, None)]):
        conversation.append_message(conversation.roles[0], asked if number else f"{image}\n{asked}")
        conversation.append_message(conversation.roles[1], answer)
    return conversation.get_prompt()


def choose_template(config: Mapping[str, Any], path: str, given: str | None) -> str:
    """The template given, or the one that the checkpoint's class leaves no doubt about; it must write a prompt here."""
    from llava.conversation import conv_templates

    from ..checkpoint.config import class_key

    key = class_key(config, path)
    template = given or CERTAIN.get(key or "")
    if key is None:
        kind = config.get("model_type", "?")
        raise Ego2ExoError(f"{path} is a {kind} model", "a LLaVA checkpoint", "give one as --model")
    if template is None or (given is None and template not in conv_templates):
        raise Ego2ExoError(
            f"{path} comes without chat template: its config does not name the one it was trained with",
            ", ".join(conv_templates),
            "give --template the one it was trained with (`--version` of its training)",
        )
    if template not in conv_templates:
        raise Ego2ExoError(f"conversation template {template!r}", ", ".join(conv_templates), "name one of these")
    try:
        prompt("?", template)
    except Exception as error:
        # The Llama 3 template writes with a tokenizer from the hub, which needs a login.
        raise Ego2ExoError(f"template {template!r} cannot write a prompt: {error}", "a usable one") from error
    return template


def stop_ids(model: Any, tokenizer: Any, template: str) -> list[int]:
    """The tokens that end an answer: the model's own, the tokenizer's, and the template's separators."""
    from llava.conversation import conv_templates

    own = getattr(model.generation_config, "eos_token_id", None)
    ids = {*(own if isinstance(own, (list, tuple)) else [own]), tokenizer.eos_token_id}
    conversation = conv_templates[template]
    added = tokenizer.get_added_vocab()
    for separator in (conversation.sep, conversation.sep2):
        # A separator of several ordinary tokens can stand inside an answer too.
        ids.add(added.get((separator or "").strip()))
    ids |= set(getattr(conversation, "stop_token_ids", None) or ())
    return sorted(ids - {None})
