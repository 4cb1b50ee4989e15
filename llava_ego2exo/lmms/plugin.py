"""What lmms-eval finds through the entry point group `lmms_eval.models`."""

from __future__ import annotations

from typing import Any

MODEL = "llava_ego2exo"


def manifests() -> list[Any]:
    """The model `llava_ego2exo`; its class is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id=MODEL, simple_class_path="llava_ego2exo.lmms.model.LlavaEgo2Exo")]
