"""The fuzzer of data files, for a short time; `scripts/fuzz_readers.py` runs it longer."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
EXAMPLES, SECONDS = 60, 20.0


def fuzzer():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("fuzz_readers", SCRIPTS / "fuzz_readers.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["fuzz_readers"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


FUZZER = fuzzer()


@pytest.mark.fault
@pytest.mark.parametrize("reader", FUZZER.targets())
def test_any_file_is_read_or_refused_by_name(reader, fault_table):
    count = FUZZER.fuzz(FUZZER.targets()[reader], EXAMPLES, time.monotonic() + SECONDS, 0)
    assert not count.lost, count.lost
    fault_table(f"fuzzed files: {reader}", count.tried, count.read + count.refused)


def test_the_fuzzer_finds_what_a_reader_lets_through():
    def careless(path):
        if b'"ego": 1' in path.read_bytes() or b"null" in path.read_bytes():
            raise KeyError("ego")

    pairs = FUZZER.targets()["pairs"]
    target = FUZZER.Target(pairs.file, pairs.whole, True, careless)
    count = FUZZER.fuzz(target, 2000, time.monotonic() + SECONDS, 0)
    assert len(count.lost) == 1 and "KeyError" in count.lost[0]
