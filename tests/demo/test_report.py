"""The demo's report on results that no run gave: its numbers, its structure, and what may not be in it."""

import json
import re
import statistics
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.demo.report import overlaid, picture, report_html, write_report
from llava_ego2exo.demo.results import ABLATIONS, ClipAttention, Results, ablation_table, differences, metrics, table

from ..pages import Page
from .made_up import CHANCE, MEANS, made_up

FEW = {"variants": ("base", "control"), "examples": 1, "attention": 0}  # nothing with ego tokens; quicker to draw
EVIL = "<script>alert('x')</script> & \"quoted\" $x_1$"
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.fixture(scope="module")
def results():
    return made_up()


@pytest.fixture(scope="module")
def html(results):
    return report_html(results)


def test_numbers_by_hand():
    results = Results({"a": {"x": [10, 20, 60], "y": [30, 0, 90]}, "b": {"x": [50], "y": [70]}}, {"x": 50, "y": 25})
    found = metrics(results)["variants"]
    assert found["a"]["x"] == {"mean": 30, "std": statistics.stdev([10, 20, 60]), "n": 3}
    assert found["a"]["mean"] == {"mean": 35, "std": statistics.stdev([20, 10, 75]), "n": 3}
    assert found["b"] == {t: {"mean": m, "std": 0.0, "n": 1} for t, m in (("x", 50), ("y", 70), ("mean", 60))}
    assert {name: cell["mean"] for name, cell in found["chance"].items()} == {"x": 50, "y": 25, "mean": 37.5}
    pairs = {"base": [10.0, 40.0], "control": [11.0, 41.0]}  # paired by seed
    found = differences(Results({name: {"x": seeds} for name, seeds in pairs.items()}, {"x": 50.0}))
    assert found == [("control", "base", {"mean": 1.0, "std": 0.0, "n": 2})]


def test_tables_and_page_show_the_metrics(results, html):
    page, found = Page(html), metrics(results)
    head, *lines = table(results).split("\n\n")[0].splitlines()
    assert head.split() == [*CHANCE, "mean"] and [line.split()[0] for line in lines] == [*MEANS, "chance"]
    for line, (name, row) in zip(lines, found["variants"].items(), strict=True):
        wanted = [
            f"{cell['mean']:.1f}" + ("" if name == "chance" else f" ± {cell['std']:.1f}") for cell in row.values()
        ]
        assert re.split(r"\s{2,}", line)[1:] == wanted
        assert " ".join([name.replace("+", "+ "), *wanted]) in page.text
    rows = [(how, row, hows["none"]) for hows in found["ablations"].values() for how, row in hows.items()]
    assert [how for how, *_ in rows] == [*ABLATIONS] * 3
    for line, (how, row, intact) in zip(ablation_table(results).splitlines()[1:], rows, strict=False):
        change = f"{row['mean']['mean'] - intact['mean']['mean']:+.1f}"
        assert how == "none" or (line.endswith(change) and change.replace("-", "−") in page.text)


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    results = made_up(seeds=1, **FEW)
    page = write_report(results, tmp_path / "a" / "b")
    assert json.loads((tmp_path / "a/b/metrics.json").read_text()) == metrics(results)
    first = page.read_text()
    assert "ablation" not in {attrs.get("id") for _, attrs in Page(first).tags} and "±" not in Page(first).text
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(Ego2ExoError, match="full"):
        write_report(made_up(seeds=2, **FEW), tmp_path / "a" / "b")
    assert page.read_text() == first and len(list(page.parent.iterdir())) == 3


def test_the_page_stands_alone_and_reads_without_eyes(html, results):
    page = Page(html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"] for attrs in page.all("a")]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids) and len(links) == 6
    assert not page.all("script", "link", "iframe", "object", "base") and "@import" not in html
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), attrs[name][:80]
    assert set(re.findall(r"https?://[\w./]+", html)) == NAMESPACES
    assert all("alt" in attrs for attrs in page.all("img"))
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))
    light, dark = html.split("@media (prefers-color-scheme: dark)")[:2]
    used = set(re.findall(r"var\((--[a-z]\w*)\)", html)) - {f"--f{i}" for i in range(9)}
    assert used and all(f"{name}: #" in light and f"{name}: #" in dark.split("\n  }")[0] for name in used)
    assert page.text.count("✓ right") == sum(a == i.truth for i in results.examples for a in i.answers.values())


def test_texts_of_a_run_stay_text():
    bad = made_up(variants=("base", "distill"))
    item = replace(bad.examples[0], question_type=EVIL, question=EVIL, truth=EVIL, options=[EVIL],
                   answers={EVIL: EVIL}, teacher_answer=EVIL, student_answer=EVIL)  # fmt: skip
    results = Results(
        {EVIL: {EVIL: [50.0]}}, {EVIL: 50.0}, {EVIL: {"none": {EVIL: [50.0]}}}, {EVIL: [[(1, 2.0), (2, 1.0)]]},
        [item], [replace(bad.attention[0], title=EVIL, layers=[EVIL] * 3)], {EVIL: EVIL}, [EVIL], {EVIL: 1.0},
    )  # fmt: skip
    html = report_html(results)
    assert "<script" not in html and Page(html).text.count("alert('x')") > 20
    assert html == report_html(results)  # nothing in it comes from the clock or the machine
    assert "<script" not in picture(results)
    ElementTree.fromstring(picture(results))


def test_attention_lies_on_its_patch():
    maps = np.zeros((2, 3, 4, 4))
    maps[1, 2, 1, 3] = 1.0  # last frame, second row of patches, last column
    clip = ClipAttention("x", np.full((3, 32, 64, 3), 100, np.uint8), maps, ["a", "b"])
    brighter = overlaid(clip, 1).astype(int).sum(-1) > 400
    assert not brighter[:2].any() and brighter[2, 8:16, 48:].all() and brighter[2].sum() == 8 * 16


def test_the_picture(results):
    text = picture(results)
    root = ElementTree.fromstring(text)
    assert len(text) < 150_000 and "var(--" not in text and set(re.findall(r"https?://[\w./]+", text)) <= NAMESPACES
    assert len(root.findall(".//{http://www.w3.org/2000/svg}image")) == 12
    assert all(name in " ".join(root.itertext()) for name in (*MEANS, *CHANCE))
