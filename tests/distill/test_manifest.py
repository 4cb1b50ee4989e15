"""Manifests: tables of pairs, whose faults are named with their line."""

import pytest

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
    assert pairs_of_manifest(tmp_path / "m.csv", tmp_path / "else")[0] == expected(tmp_path / "else")
    table = "\ufeff" + CSV.replace('"b, c"', "bc").replace(",", ";").replace("\n", "\r\n")
    assert pairs_of_manifest(manifest(tmp_path / "n.csv", table))[0][0] == expected(tmp_path)[0]


@pytest.mark.parametrize(
    ("name", "text", "token"),
    [
        ("m.csv", "segment,ego,exo1,fps,Exo2,\na,e,x,3,4,5\n", r"fps, Exo2, \(no name\)"),
        ("m.xlsx", "", "'.xlsx'"),
        ("m.csv", "segment,ego,ego,exo1\na,b,c,d\n", "'ego'"),
        ("m.csv", "segment,ego,exo1\na,b\n", "line 2 has 2 cells"),
        ("m.csv", 'segment,ego,exo1\na,"b\n', "no CSV"),
        ("m.csv", "segment,ego,exo,exo1\na,b,c,d\n", "view exo1 twice"),
        ("m.csv", "segment,ego,exo1,start_s\na,b,c,1.5s\n", "line 2 start_s '1.5s'"),
        ("m.csv", "segment,ego,exo1\na,b,c\na,d,e\n", "'a' is in several rows"),
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
    asked = ["pairs", "build", "--manifest", str(path), "--out", str(tmp_path / "p.jsonl")]
    assert cli.main([*asked, "--skip-unpaired"]) == 0
    assert "2 unpaired row(s) left out: line 3: b has no exo; line 4" in capsys.readouterr().out
    with pytest.raises(Ego2ExoError, match="line 2 lacks ego, exo"):  # a row with neither side is a fault
        pairs_of_manifest(manifest(path, "segment,ego,exo1\na,,\n"), unpaired=[])
