"""Training samples as LLaVA's dataset gives them: read within bounds, never replaced, with what their teacher needs."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from ...config import PREFIX
from ...errors import Ego2ExoError
from ...run_config import DistillConfig, ReadingConfig
from ...video import Clip, read_video, time_instruction
from ...video.cache import Reader, ReaderSettings
from ...video.limits import VideoLimits
from ..fixes.data import written_as
from ..settings import DISTILL
from .rows import host_row, warn_of_text
from .stored_answers import beginnings, read_logits
from .teachers import CLIPS
from .unreadable_samples import EXO, skip_unreadable, unreadable_error

# LLaVA hands its data arguments down to whatever reads a sample.
_READER = f"{PREFIX}reader"


def wrap_data_module(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """LLaVA's data module with a strict dataset; where the host has no video reader, with one.

    The finished object's class is exchanged, as LLaVA's dataset calls `super` by its own global name.
    """

    @functools.wraps(original)
    def make_supervised_data_module(tokenizer: Any, data_args: Any) -> dict[str, Any]:
        module = original(tokenizer=tokenizer, data_args=data_args)
        dataset = module["train_dataset"]
        host = sys.modules[type(dataset).__module__]
        if hasattr(type(dataset), "_get_item"):
            dataset.__class__ = _strict(type(dataset))
        else:
            dataset.__class__ = _reading_videos(type(dataset), host)
            module["data_collator"] = _with_modalities(module["data_collator"])
        if DISTILL.get() is not None:
            dataset.list_data_dict = [host_row(row) for row in dataset.list_data_dict]
            for name in ("video_folder", "image_folder"):  # LLaVA cannot join None
                setattr(data_args, name, getattr(data_args, name) or "")
        else:
            warn_of_text(dataset.list_data_dict)
        set_reader(data_args)
        return skip_unreadable(add_teacher(module))

    return make_supervised_data_module


def _strict(base: type) -> type:
    """LLaVA-NeXT's dataset without its silent replacement of a sample it cannot read by the next one."""

    class StrictDataset(base):  # type: ignore[misc, valid-type]
        _reading: int | None = None

        def __getitem__(self, index: int) -> dict[str, Any]:
            return self._get_item(index)

        def _get_item(self, index: int) -> dict[str, Any]:
            if self._reading is not None:  # LLaVA swallowed the error and asks for another sample
                raise unreadable_error(self, self._reading, sys.exc_info()[1])
            self._reading = index
            try:
                with written_as(self.list_data_dict[index]):
                    return super()._get_item(index)
            except (Ego2ExoError, KeyboardInterrupt):
                raise
            except Exception as error:
                raise unreadable_error(self, index, error) from error
            finally:
                self._reading = None

    return StrictDataset


def _reading_videos(base: type, host: Any) -> type:
    """llava-torch's dataset with LLaVA-NeXT's `video` samples: same frames, same time instruction."""

    class VideoDataset(base):  # type: ignore[misc, valid-type]
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = self.list_data_dict[index]
            try:
                if "video" not in sample:
                    kind = "image" if "image" in sample else "text"
                    with written_as(sample):
                        return {**super().__getitem__(index), "modality": kind}
                return _video_sample(self, sample, host)
            except Exception as error:
                raise unreadable_error(self, index, error) from error

        @property
        def modality_lengths(self) -> list[int]:
            sizes = super().modality_lengths
            return [abs(n) if "video" in sample else n for n, sample in zip(sizes, self.list_data_dict, strict=True)]

    return VideoDataset


def _video_sample(dataset: Any, sample: dict[str, Any], host: Any) -> dict[str, Any]:
    args = dataset.data_args
    clip = _read_clip(os.path.join(args.video_folder or "", sample["video"]), args)
    turns = copy.deepcopy(sample["conversations"])
    if args.add_time_instruction:
        turns[0]["value"] = f"<image>\n{time_instruction(clip)}\n{turns[0]['value'].replace('<image>', '')}"
    with written_as(sample):
        sources = host.preprocess_multimodal([turns], args)
        data = host.preprocess(sources, dataset.tokenizer, has_image=True)
    pixels = args.image_processor.preprocess(list(clip.frames), return_tensors="pt")["pixel_values"]
    return {"input_ids": data["input_ids"][0], "labels": data["labels"][0], "image": pixels, "modality": "video"}


def _with_modalities(collate: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """llava-torch's collator, with the modality of each entry for the model."""

    @functools.wraps(collate.__call__)
    def with_modalities(instances: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(instances)
        if "images" in batch:
            batch["modalities"] = [instance.get("modality", "image") for instance in instances]
        return batch

    return with_modalities


def add_teacher(module: dict[str, Any]) -> dict[str, Any]:
    """LLaVA's data module with the teacher's part, where the run has a KL; untouched where it has none."""
    config = DISTILL.get()
    if config is None or not config.on:
        return module
    dataset = module["train_dataset"]
    dataset.__class__ = _teacher_dataset(type(dataset), config)
    module["data_collator"] = _teacher_collator(module["data_collator"], config)
    return module


def has_teacher(sample: dict[str, Any]) -> bool:
    """Whether a sample gets a KL: general data that is replayed against forgetting does not."""
    return not sample.get("replay", False)


def _teacher_dataset(base: type, config: DistillConfig) -> type:
    class TeacherDataset(base):  # type: ignore[misc, valid-type]
        """Each sample carries what its teacher needs."""

        def __getitem__(self, index: int) -> dict[str, Any]:
            item, sample = super().__getitem__(index), self.list_data_dict[index]
            if not has_teacher(sample):
                return item
            if config.kind == "cached":
                return {**item, "teacher": [self._stored_turn(key) for key in sample["answer_keys"]]}
            self.list_data_dict[index] = {**sample, "video": sample["ego_video"], EXO: sample["video"]}
            try:
                clips = {"exo": sample["video"], "ego": sample["ego_video"]}
                return {**item, "teacher": {**super().__getitem__(index), CLIPS: clips}}
            finally:
                self.list_data_dict[index] = sample

        def _stored_turn(self, key: str) -> dict[str, Any]:
            arrays = {name: torch.from_numpy(value) for name, value in read_logits(str(config.answers), key).items()}
            return {**arrays, "beginnings": beginnings(arrays["tokens"].tolist(), self.tokenizer)}

    return TeacherDataset


def _teacher_collator(collate: Callable[..., dict[str, Any]], config: DistillConfig) -> Callable[..., dict[str, Any]]:
    """The host's collator for both parts.

    `batch["teacher"]` is absent where no row has a teacher; `rows` in it are the student's rows of the teacher's, and
    `clips` the files of both views, where the teacher is a model.
    """

    @functools.wraps(collate.__call__)
    def collate_both(instances: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate([{name: value for name, value in each.items() if name != "teacher"} for each in instances])
        rows = [row for row, instance in enumerate(instances) if "teacher" in instance]
        taught = [instances[row]["teacher"] for row in rows]
        if rows:
            batch["teacher"] = {"rows": rows, **({"turns": taught} if config.kind == "cached" else _views(taught))}
        return batch

    def _views(taught: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = [{name: value for name, value in each.items() if name != CLIPS} for each in taught]
        return {**collate(inputs), CLIPS: [each[CLIPS] for each in taught]}

    return collate_both


def set_reader(data_args: Any) -> None:
    """Give a run with ego tokens or a cache of frames the reader that its flags ask for; others keep LLaVA's own."""
    flags, limits = ReadingConfig.from_object(data_args), VideoLimits.from_object(data_args, PREFIX)
    if DISTILL.get() is not None or flags.frame_cache:
        setattr(data_args, _READER, ReaderSettings(flags.frame_cache, flags.frame_cache_gb, limits).reader())


def get_reader(data_args: Any) -> Reader | None:
    """The reader of :func:`set_reader`."""
    return getattr(data_args, _READER, None)


def _read_clip(path: str, args: Any) -> Clip:
    read = get_reader(args) or read_video
    return read(path, fps=args.video_fps, frames_upbound=args.frames_upbound, force_sample=args.force_sample)


def wrap_reader(original: Callable[..., Any]) -> Callable[..., Any]:
    """LLaVA-NeXT's `process_video_with_decord`."""

    @functools.wraps(original)
    def process_video_with_decord(video_file: Any, data_args: Any) -> Any:
        if get_reader(data_args) is None:
            return original(video_file, data_args)
        clip = _read_clip(str(video_file), data_args)
        return clip.frames, clip.duration, llava_times(clip, data_args), len(clip.indices)

    return process_video_with_decord


def llava_times(clip: Clip, data_args: Any) -> str:
    """The times of a whole video's frames as LLaVA-NeXT writes them.

    Where it takes every n-th frame it divides their numbers by n: it counts seconds only at `--video_fps 1` and a whole
    rate. Models have learned from these numbers, so they stay.
    """
    step = max(round(clip.rate / data_args.video_fps), 1)
    total, most = round(clip.duration * clip.rate), data_args.frames_upbound
    evenly = most > 0 and (len(range(0, total, step)) > most or data_args.force_sample)
    steady = clip.times == [index / clip.rate for index in clip.indices]  # else only the times are right
    return ",".join(f"{s:.2f}s" for s in (clip.times if evenly or not steady else [i / step for i in clip.indices]))
