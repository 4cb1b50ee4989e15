"""The JSON files behind `--data_path`."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import Ego2ExoError


def data_files(data_path: str | None, lists: bool = True) -> list[str]:
    """The JSON files that LLaVA reads for `--data_path`: one, `{a,b}.json`, or a YAML list.

    Args:
        data_path: the flag's value.
        lists: whether the host reads several files, as LLaVA-NeXT does and llava-torch does not.

    Raises:
        Ego2ExoError: the host does not read such a path, or a file is not there.
    """
    if not data_path:
        raise Ego2ExoError("no --data_path", "a JSON file of LLaVA samples", "pass --data_path train.json")
    braces = re.match(r"^(.*)\{(.*)\}\.json$", data_path)
    if braces:
        files = [f"{braces.group(1)}{name}.json" for name in braces.group(2).split(",")]
    elif data_path.endswith(".yaml") and Path(data_path).is_file():
        import yaml

        files = [dataset["json_path"] for dataset in yaml.safe_load(Path(data_path).read_text())["datasets"]]
    else:
        files = [data_path]
    if data_path.endswith(".jsonl") or (files != [data_path] and not lists):
        allowed = "one .json file, `{a,b}.json` or a .yaml list (.jsonl only inside it)" if lists else "one .json file"
        raise Ego2ExoError(f"--data_path {data_path} is not read by this llava", allowed, "write one JSON list")
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        given = f"--data_path {data_path}: no file {', '.join(missing)}"
        raise Ego2ExoError(given, "existing JSON files", "check the path")
    return files
