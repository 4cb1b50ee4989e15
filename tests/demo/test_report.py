"""The demo's report on results that no run gave: its numbers, its structure, and what may not be in it."""

import json
import re
import statistics
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.common.pages import overlaid
from llava_ego2exo.demo.report import lines, picture, report_html, write_report
from llava_ego2exo.demo.results import (
    ABLATIONS,
    WRITTEN,
    Results,
    ablation_table,
    attention_table,
    difference_table,
    differences,
    metrics,
    probe_table,
    table,
)

from ..pages import Page
from .made_up import CHANCE, MEANS, made_up

FEW = {"variants": ("base", "control"), "examples": 1, "attention": 0}  # nothing with ego tokens; quicker to draw
BARS = ("base", "control", "distill", "tokens-16", "teacher")
EVIL = "<script>alert('x')</script> & \"quoted\" $x_1$"
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.fixture(scope="module")
def results():
    return made_up()


@pytest.fixture(scope="module")
def html(results):
    return report_html(results)


def simple(variants, chance, **more):
    """Results with the same numbers on both splits, one token a variant."""
    plain = {"visual_tokens": dict.fromkeys(variants, 1), "answer_seconds": {name: [0.001] for name in variants}}
    return Results(**{"variants": variants, "trained": variants, "chance": chance, **plain, **more})


def test_numbers_by_hand():
    held_out = {"a": {"x": [10, 20, 60], "y": [30, 0, 90]}, "b": {"x": [50], "y": [70]}}
    trained = {"a": {"x": [0, 0, 0]}, "b": {"x": [40]}}
    found = metrics(simple(held_out, {"x": 50, "y": 25}, trained=trained))["variants"]
    assert found["a"]["x"] == {"mean": 30, "std": statistics.stdev([10, 20, 60]), "n": 3, "seeds": [10, 20, 60]}
    assert found["a"]["mean"] == {"mean": 35, "std": statistics.stdev([20, 10, 75]), "n": 3, "seeds": [20, 10, 75]}
    assert {name: cell["seeds"] for name, cell in found["b"].items()} == {
        "x": [50], "y": [70], "mean": [60], "trained": [40], "both": [50]}  # fmt: skip
    assert found["b"]["x"]["std"] == 0.0
    assert {found["chance"][name]["mean"] for name in ("mean", "trained", "both")} == {37.5}


def test_differences_by_hand():
    """Paired by seed, of each split and of both; tokens alone as a share; another clip's tokens on held-out pairs."""
    means = {"distill": [60.0, 80.0], "control": [20.0, 30.0], "tokens-16": [54.0, 76.0]}
    variants, trained = {name: {"x": seeds} for name, seeds in means.items()}, {**means, "control": [40.0, 40.0]}
    swapped = {"tokens-16": {"none": variants["tokens-16"], "other clip": {"x": [30.0, 32.0]}}}
    results = simple(variants, {"x": 50.0}, trained={name: {"x": seeds} for name, seeds in trained.items()},
                     ablations=swapped)  # fmt: skip
    found = [(unit, {split: value["seeds"] for split, value in by.items()}) for _, _, unit, by in differences(results)]
    assert found[0] == ("points", {"held-out": [40.0, 50.0], "trained": [20.0, 40.0], "both": [30.0, 45.0]})
    assert found[1] == ("percent", dict.fromkeys(("held-out", "trained", "both"), [90.0, 95.0]))
    assert found[2:] == [("points", {"held-out": [-24.0, -44.0]})]


def test_tables_and_page_show_the_metrics(results, html):
    page, found = Page(html), metrics(results)
    head, *shown = table(results).split("\n\n")[0].splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["visual tokens", *CHANCE, "mean", "trained", *WRITTEN, "ms per answer"]
    assert [line.split()[0] for line in shown] == [*MEANS, "chance"]
    for line, (name, row) in zip(shown, found["variants"].items(), strict=True):
        guess, columns = name == "chance", (*CHANCE, "mean", "trained", *WRITTEN)
        cells = [row[column] for column in (columns[:-2] if guess else columns)]
        wanted = [f"{cell['mean']:.1f}" + ("" if guess else f" ± {cell['std']:.1f}") for cell in cells]
        if not guess:
            answer = found["answer_seconds"][name]
            took = f"{1000 * answer['mean']:.1f} ± {1000 * answer['std']:.1f}"
            wanted = [str(results.visual_tokens[name]), *wanted, took]
        assert re.split(r"\s{2,}", line)[1:] == wanted
        assert " ".join([name.replace("+", "+ "), *wanted]) in page.text
    rows = [(how, row, hows["none"]) for hows in found["ablations"].values() for how, row in hows.items()]
    assert [how for how, *_ in rows] == ["none", "other clip"] * 3 + [*ABLATIONS]
    for line, (how, row, intact) in zip(ablation_table(results).splitlines()[1:], rows, strict=False):
        change = f"{row['mean']['mean'] - intact['mean']['mean']:+.1f}"
        assert how == "none" or (line.endswith(change) and change.replace("-", "−") in page.text)
    assert "30.0 ± 0.0  " in attention_table(results) and "81.0 ± 1.0" in probe_table(results)
    assert (
        "tokens-16 30.0 ± 0.0 10.0 ± 0.0 60.0 ± 0.0" in page.text
        and "exo 81.0 ± 1.0 81.0 ± 1.0 81.0 ± 1.0" in page.text
    )
    for one, line in zip(found["differences"], difference_table(results).splitlines()[1:], strict=False):
        both = one.get("both", one["held-out"])
        assert f"{abs(both['mean']):.1f} ± {both['std']:.1f}" in line


def test_lines_of_the_plot():
    """From two points on, by the number of tokens; variants that a user added count too."""
    found = lines(made_up(seeds=1))
    assert [[size for size, _ in points] for points in found.values()] == [[4, 8, 16, 144], [4, 8, 16]]
    assert list(lines(made_up(seeds=1, variants=("distill", "pooled-8", "tokens-16"))).values()) == [
        [(8, "pooled-8"), (144, "distill")]
    ]
    assert not lines(made_up(seeds=1, variants=("control", "distill", "tokens-16")))
    added = {name: {"x": [50.0]} for name in ("tokens-64", "tokens-slow", "tokens-16")}
    sizes = {"tokens-64": 64, "tokens-slow": 16, "tokens-16": 16}
    found = lines(simple(added, {"x": 50.0}, visual_tokens=sizes))
    assert list(found.values()) == [[(16, "tokens-16"), (64, "tokens-64")]]


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
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids) and len(links) == 7
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
    found = {EVIL: {EVIL: [50.0]}}
    results = simple(
        found, {EVIL: 50.0}, ablations={EVIL: {"none": found[EVIL], "other clip": found[EVIL]}}, probe=found,
        curves={EVIL: [[(1, 2.0), (2, 1.0)]]}, examples=[item], settings={EVIL: EVIL}, commands=[EVIL],
        attention=[replace(bad.attention[0], title=EVIL, layers=[EVIL] * 3)], seconds={EVIL: 1.0},
    )  # fmt: skip
    html = report_html(results)
    assert "<script" not in html and Page(html).text.count("alert('x')") > 20
    assert html == report_html(results)  # nothing in it comes from the clock or the machine
    assert "<script" not in picture(results)
    ElementTree.fromstring(picture(results))


def test_attention_lies_on_its_patch():
    maps = np.zeros((2, 3, 4, 4))
    maps[1, 2, 1, 3] = 1.0  # last frame, second row of patches, last column
    brighter = overlaid(np.full((3, 32, 64, 3), 100, np.uint8), maps[1]).astype(int).sum(-1) > 400
    assert not brighter[:2].any() and brighter[2, 8:16, 48:].all() and brighter[2].sum() == 8 * 16


def test_the_picture(results):
    """The plot where it has a line, and bars of every variant where not; beside it frames of three clips."""
    for shown, named in ((results, ("ego tokens alone", "144", "teacher")), (made_up(variants=BARS), (*BARS, *CHANCE))):
        text = picture(shown)
        root = ElementTree.fromstring(text)
        assert len(text) < 150_000 and "var(--" not in text
        assert set(re.findall(r"https?://[\w./]+", text)) <= NAMESPACES
        assert len(root.findall(".//{http://www.w3.org/2000/svg}image")) == 6
        assert all(name in " ".join(root.itertext()) for name in named)
