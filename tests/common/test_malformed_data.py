"""Data files of other people: links, absolute paths, and malformed JSON."""

import json

import pytest

from llava_ego2exo.cli import main
from llava_ego2exo.common.json_io import DEFAULT_MAX_MB, read_json, set_max_mb
from llava_ego2exo.config import Ego2ExoConfig
from llava_ego2exo.distill.pairs.file import read_pairs, require_files, write_pairs
from llava_ego2exo.distill.pairs.manifest import pairs_of_manifest
from llava_ego2exo.distill.targets.replay import Mix, draw_replayed
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.preflight.data import check_data

from ..evaluation.rows import CURRENT


class Settings:
    """What the check of a training file asks of a command line."""

    def __init__(self, **values):
        self.values = values

    def __getitem__(self, name):
        return self.values.get(name)


def samples(path, kind="video", **more):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    return [{"id": "1", kind: path, "conversations": turns, **more}]


def test_links_and_absolute_paths_work(tmp_path):
    """As data sets on a cluster have them: links into a store, and paths that lead out of the data file's folder."""
    folder, store = tmp_path / "data", tmp_path / "store"
    folder.mkdir(), store.mkdir()
    (store / "a.mp4").touch()
    (folder / "link.mp4").symlink_to(store / "a.mp4")
    (folder / "linked").symlink_to(store)
    for path in ("link.mp4", "linked/a.mp4", "../store/a.mp4", str(store / "a.mp4")):
        (folder / "m.csv").write_text(f"segment,ego,exo1\ns,{path},{path}\n")
        pairs, _ = pairs_of_manifest(folder / "m.csv")
        require_files(read_pairs(write_pairs(folder / "p.jsonl", pairs)))
        (folder / "t.json").write_text(json.dumps(samples(path)))
        check_data(Settings(data_path=str(folder / "t.json"), video_folder=str(folder)), Ego2ExoConfig())
        assert draw_replayed(Mix(str(folder / "t.json"), 0.5), 1, 0)


MALFORMED = {
    "nested too deep": "[" * 100_000 + "]" * 100_000,
    "cut": '[{"segment": "a',
    "empty": "",
    "a null byte": '["\0"]',
    "an endless number": "[" + "1" * 5000 + "]",
    "UTF-16": '[{"segment": "a"}]'.encode("utf-16"),
    "not UTF-8": b'["\xff"]',
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_refused_by_the_files_name(content, tmp_path):
    path = tmp_path / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Ego2ExoError, match="data.json is no"):
        read_json(path, "a JSON file")


def test_the_largest_size_is_a_flag(tmp_path, capsys):
    path = tmp_path / "b.json"
    path.write_text(json.dumps([CURRENT]) + " " * 2**20)
    check = ["eval", "--check", "--benchmark", "adlx-tsu-tc", "--data", str(path), "--max-json-mb"]
    try:
        assert main([*check, "1"]) == 1 and "--max-json-mb" in capsys.readouterr().err
        assert main([*check, "2"]) == 0
        (tmp_path / "t.json").write_text(json.dumps(samples("a.mp4")) + " " * 2**20)
        with pytest.raises(Ego2ExoError, match="t.json has .*1 MiB.*--ego2exo_max_json_mb"):
            check_data(Settings(data_path=str(tmp_path / "t.json"), ego2exo_max_json_mb=1), Ego2ExoConfig())
    finally:
        set_max_mb(DEFAULT_MAX_MB)
