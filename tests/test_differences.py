"""What differs between two sets of settings, by name and both values."""

from llava_ego2exo.common.record_store import differences


def test_only_what_differs_is_listed_with_both_values():
    old = {"a": 1, "list": [1], "inner": {"same": 0, "dtype": "float32", "gone": 3}}
    new = {"a": 1, "list": [2], "inner": {"same": 0, "dtype": "bfloat16"}, "text": "x" * 99}
    assert differences(old, old) == []
    lines = differences(old, new)
    assert lines[:3] == ["list: [1], now [2]", 'inner.dtype: "float32", now "bfloat16"', "inner.gone: 3, now null"]
    assert lines[3].startswith('text: null, now "xxx') and lines[3].endswith("...") and len(lines[3]) < 90
