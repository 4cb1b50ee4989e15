"""Flags: ranges, layers, and the way into and out of a checkpoint's config."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.run_config import BottleneckConfig


@given(st.sets(st.integers(0, 25), min_size=1), st.integers(26, 40))
def test_layers_read_back_ascending(chosen, count):
    config = Ego2ExoConfig(layers=", ".join(map(str, chosen)))
    assert config.layer_indices(count) == tuple(sorted(chosen))
    assert Ego2ExoConfig().layer_indices(3) == (0, 1, 2)


def test_values_that_no_run_can_use():
    for name, values in {
        "layers": ("", ",", "0,", "a", "-1", "1.5", "0 1", "0,0"),
        "num_tokens": (0, -1, True, "16", 1.5),
        "visual_tokens": ("no",),
        "lr": (0.0, 1.0),
        "pool": ("", "2", "0x1", "2x", "2x2x2", "-1x2", "axb"),
        "modalities": ("", "audio"),
    }.items():
        for value in values:
            with pytest.raises(Ego2ExoError, match=f"--ego2exo_{name}"):
                Ego2ExoConfig(**{name: value})
    with pytest.raises(Ego2ExoError, match="'3' .*0 to 2 "):
        Ego2ExoConfig(layers="3").layer_indices(3)


def test_steps_of_the_bottleneck():
    steps = {(0.0, 9): 0, (0.4, 10): 4, (0.4, 4): 2, (0.01, 10): 1, (0.99, 10): 9, (0.5, 1): 0}
    assert {(share, total): BottleneckConfig(share).steps(total) for share, total in steps} == steps
    for share in (-0.1, 1.0, float("nan"), True, "half"):
        with pytest.raises(Ego2ExoError, match="--ego2exo_bottleneck"):
            BottleneckConfig(share)


@given(
    st.builds(
        Ego2ExoConfig,
        num_tokens=st.integers(1, 99),
        layers=st.sampled_from(["all", "0,2"]),
        visual_tokens=st.booleans(),
        pool=st.none() | st.just("3x2"),
        modalities=st.sampled_from(["video", "image", "video,image"]),
        lr=st.none() | st.floats(1e-9, 0.5),
    )
)
def test_through_config_json_and_back(config):
    stored = json.loads(json.dumps(config.to_dict()))
    assert all(key.startswith("ego2exo_") for key in stored)
    assert Ego2ExoConfig.from_object(SimpleNamespace(**stored)) == config


def test_differences_name_what_shapes_weights():
    other = Ego2ExoConfig(num_tokens=4, attn="sdpa", lr=0.1)
    assert Ego2ExoConfig().differences(other) == ["ego2exo_num_tokens: 16 / 4"]
    assert Ego2ExoConfig().differences(Ego2ExoConfig(grid="1x4x4")) == ["ego2exo_grid: 4x2x2 / 1x4x4"]
    assert Ego2ExoConfig().differences(Ego2ExoConfig(grid="4x2x2")) == []
