"""Flags: ranges, layers, and the way into and out of a checkpoint's config."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.errors import Ego2ExoError


@given(st.sets(st.integers(0, 25), min_size=1), st.integers(26, 40))
def test_layers_read_back_ascending(chosen, count):
    config = Ego2ExoConfig(layers=", ".join(map(str, chosen)))
    assert config.layer_indices(count) == tuple(sorted(chosen))


def test_all_layers():
    assert Ego2ExoConfig().layer_indices(3) == (0, 1, 2)


@pytest.mark.parametrize("layers", ["", ",", "0,", "a", "-1", "1.5", "0 1", "0,0"])
def test_layers_that_are_none(layers):
    with pytest.raises(Ego2ExoError, match="--ego2exo_layers.*Allowed: `all`, or numbers"):
        Ego2ExoConfig(layers=layers)


def test_layers_out_of_range():
    with pytest.raises(Ego2ExoError, match=r"'3' is out of range.*0 to 2 \(the vision encoder has 3 layers\)"):
        Ego2ExoConfig(layers="3").layer_indices(3)


@pytest.mark.parametrize("value", [0, -1, True, "16", 1.5])
def test_tokens(value):
    with pytest.raises(Ego2ExoError, match="--ego2exo_num_tokens"):
        Ego2ExoConfig(num_tokens=value)


def test_visual_tokens_is_a_truth_value():
    with pytest.raises(Ego2ExoError, match="--ego2exo_visual_tokens 'no'.*True or False"):
        Ego2ExoConfig(visual_tokens="no")


@given(
    st.builds(
        Ego2ExoConfig,
        num_tokens=st.integers(1, 99),
        layers=st.sampled_from(["all", "0,2"]),
        visual_tokens=st.booleans(),
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


def test_the_error_says_three_things():
    error = Ego2ExoError("--a 1", "2, 3", "use 2")
    assert str(error) == "--a 1. Allowed: 2, 3. What to do: use 2."
    assert isinstance(error, ValueError)
