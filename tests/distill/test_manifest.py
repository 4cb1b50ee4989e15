"""Manifests: three formats give the same pairs; whatever is wrong is named, with its row."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.distill.pairs.manifest import pairs_of_manifest
from llava_ego2exo.distill.pairs.pair import Pair

CSV = """segment,take,ego,exo1,exo:front,start_s,end_s,offset_s,split
a,t,v/a.mp4,v/a1.mp4,,1,2.5,-0.5,val
"b, c",,v/b.mp4,,"v/b f.mp4",,,,
"""


def manifest(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def expected(folder):
    return [
        Pair("a", folder / "v/a.mp4", {"exo1": folder / "v/a1.mp4"}, 1.0, 2.5, -0.5, "val", "t"),
        Pair("b, c", folder / "v/b.mp4", {"front": folder / "v/b f.mp4"}),
    ]


def test_csv_tsv_and_semicolons(tmp_path):
    assert pairs_of_manifest(manifest(tmp_path / "m.csv", CSV)) == (expected(tmp_path), True)
    table = CSV.replace('"b, c"', "bc").replace(",", "\t")
    assert pairs_of_manifest(manifest(tmp_path / "m.tsv", table))[0][0] == expected(tmp_path)[0]
    table = "\ufeff" + CSV.replace('"b, c"', "bc").replace(",", ";").replace("\n", "\r\n")
    assert pairs_of_manifest(manifest(tmp_path / "n.csv", table))[0][0] == expected(tmp_path)[0]


def test_json_and_jsonl_and_the_folder_of_paths(tmp_path):
    rows = [
        {"segment": "a", "take": "t", "ego": "v/a.mp4", "exo": "v/a1.mp4", "start_s": 1, "end_s": 2.5, "offset_s": -0.5,
         "split": "val"},
        {"segment": "b, c", "ego": "v/b.mp4", "exo": {"front": "v/b f.mp4"}},
    ]  # fmt: skip
    assert pairs_of_manifest(manifest(tmp_path / "m.json", json.dumps(rows)))[0] == expected(tmp_path)
    lines = "\n".join(map(json.dumps, rows))
    assert pairs_of_manifest(manifest(tmp_path / "m.jsonl", lines)) == (expected(tmp_path), True)
    assert pairs_of_manifest(manifest(tmp_path / "n.jsonl", json.dumps(rows[1]))) == (expected(tmp_path)[1:], False)
    assert pairs_of_manifest(tmp_path / "m.json", tmp_path / "else")[0] == expected(tmp_path / "else")


@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        ("m.csv", "segment,ego,exo1,fps,Exo2,\na,e,x,3,4,5\n", r"fps, Exo2, \(no name\)"),
        ("m.xlsx", "", "'.xlsx'"),
        ("m.csv", "segment,ego,exo1\n", "no row"),
        ("m.csv", "segment,ego,ego,exo1\na,b,c,d\n", "'ego'"),
        ("m.csv", "segment,ego,exo1\na,b\n", "line 2 has 2 cells"),
        ("m.csv", 'segment,ego,exo1\na,"b\n', "no CSV"),
        ("m.csv", "segment,ego,exo1\na,b,\n", "line 2 lacks exo"),
        ("m.csv", "segment,ego,exo,exo1\na,b,c,d\n", "view exo1 twice"),
        ("m.csv", "segment,ego,exo1,start_s\na,b,c,1.5s\n", "line 2 start_s '1.5s'"),
        ("m.csv", "segment,ego,exo1,start_s\na,b,c,nan\n", "line 2 start_s nan"),
        ("m.csv", "segment,ego,exo1\na,b,c\na,d,e\n", "'a' is in several rows"),
        ("m.json", '{"segment": "a"}', "no list"),
        ("m.json", "[1]", "entry 0 is a int"),
        ("m.jsonl", "[", "line 1 is no JSON"),
        ("m.csv", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_faults_are_named(tmp_path, name, text, token):
    with pytest.raises(Ego2ExoError, match=token):
        pairs_of_manifest(manifest(tmp_path / name, text))


def test_rows_without_a_side_are_left_out_where_asked(tmp_path, capsys):
    from llava_ego2exo import cli

    for name in ("a_e", "a_x", "b_e", "c_x"):
        (tmp_path / name).touch()
    path = manifest(tmp_path / "m.csv", "segment,ego,exo1\na,a_e,a_x\nb,b_e,\nc,,c_x\n")
    with pytest.raises(Ego2ExoError, match="2 fault.*line 3 lacks exo; line 4 lacks ego"):
        pairs_of_manifest(path)
    left_out = []
    pairs, _ = pairs_of_manifest(path, unpaired=left_out)
    assert [pair.segment for pair in pairs] == ["a"]
    assert left_out == ["line 3: b has no exo", "line 4: c has no ego"]
    asked = ["pairs", "build", "--manifest", str(path), "--out", str(tmp_path / "p.jsonl")]
    assert cli.main(asked) == 1
    capsys.readouterr()
    assert cli.main([*asked, "--skip-unpaired"]) == 0
    assert "2 unpaired row(s) left out: line 3: b has no exo; line 4" in capsys.readouterr().out
    manifest(path, "segment,ego,exo1\nb,b_e,\n")
    assert cli.main([*asked, "--skip-unpaired"]) == 1
    assert "no row is a pair: line 2: b has no exo" in capsys.readouterr().err
    with pytest.raises(Ego2ExoError, match="line 2 lacks ego, exo"):  # a row with neither side is a fault
        pairs_of_manifest(manifest(path, "segment,ego,exo1\na,,\n"), unpaired=[])


CELLS = st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["segment", "ego", "exo", "exo1", "exo:x", "start_s", "1e400", "nan", '"', ",", ";", "\n", "\0"]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["m.csv", "m.tsv", "m.json"]),
    st.lists(st.lists(CELLS, max_size=5), max_size=5).map(lambda rows: "\n".join(map(",".join, rows)))
    | st.lists(st.dictionaries(CELLS, CELLS | st.floats() | st.none() | st.lists(CELLS)), max_size=3).map(json.dumps),
)
def test_nothing_else_is_raised(tmp_path, name, content):
    try:
        pairs, _ = pairs_of_manifest(manifest(tmp_path / name, content))
    except Ego2ExoError:
        return
    assert all(isinstance(pair, Pair) for pair in pairs) and pairs
