"""The demo's report on results that no run gave: its numbers, its structure, and what may not be in it."""

import json
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.demo import figures, report
from llava_ego2exo.demo.picture import overlaid, picture
from llava_ego2exo.demo.report import ablation_table, metrics, report_html, table, write_report
from llava_ego2exo.demo.results import HOWS, Look, Results
from llava_ego2exo.demo.summary import differences
from llava_ego2exo.pages.thumbnails import heat, picture_uri
from llava_ego2exo.runs import files

from .made_up import CHANCE, MEANS, frames, made_up

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}
EVIL = "<script>alert('x')</script> & \"quoted\" $x_1$"


class Page(HTMLParser):
    """Tags with their attributes, and text; refuses tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def results():
    return made_up()


@pytest.fixture(scope="module")
def html(results):
    return report_html(results)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def cells(line):
    """Name and cells of a line of a plain-text table."""
    name, *rest = re.split(r"\s{2,}", line.strip())
    return name, rest


def shown(value, known=False):
    return f"{value['mean']:.1f}" if value["n"] == 1 or known else f"{value['mean']:.1f} ± {value['std']:.1f}"


class TestNumbers:
    def test_by_hand(self):
        results = Results({"a": {"x": [10, 20, 60], "y": [30, 0, 90]}, "b": {"x": [50], "y": [70]}}, {"x": 50, "y": 25})
        found = metrics(results)["variants"]
        assert found["a"]["x"] == {"mean": 30, "std": statistics.stdev([10, 20, 60]), "n": 3}
        assert found["a"]["mean"] == {"mean": 35, "std": statistics.stdev([20, 10, 75]), "n": 3}
        assert found["b"] == {t: {"mean": m, "std": 0.0, "n": 1} for t, m in (("x", 50), ("y", 70), ("mean", 60))}
        assert found["chance"] == {
            t: {"mean": m, "std": 0.0, "n": 3} for t, m in (("x", 50), ("y", 25), ("mean", 37.5))
        }

    def test_table_and_page_show_the_metrics(self, results, page):
        found = metrics(results)["variants"]
        head, *lines = table(results).split("\n\n")[0].splitlines()
        assert head.split() == [*CHANCE, "mean"]
        assert [cells(line)[0] for line in lines] == [*MEANS, "chance"]
        for line in lines:
            name, row = cells(line)
            wanted = [shown(found[name][column], name == "chance") for column in (*CHANCE, "mean")]
            assert row == wanted
            assert " ".join([name.replace("+", "+ "), *wanted]) in page.text
        assert "mean ± sample standard deviation over 3 seeds" in table(results)

    def test_ablations(self, results, page):
        found = metrics(results)["ablations"]
        assert list(found) == ["distill+tokens", "distill+tokens+kl", "tokens-only"]
        assert all(list(hows) == list(HOWS) for hows in found.values())
        lines = ablation_table(results).split("\n\n")[0].splitlines()[1:]
        rows = [row for hows in found.values() for row in hows.items()]
        intact = [hows["none"] for hows in found.values() for _ in HOWS]
        for line, (how, row), whole in zip(lines, rows, intact, strict=True):
            assert all(shown(row[column]) in line for column in (*CHANCE, "mean"))
            change = f"{row['mean']['mean'] - whole['mean']['mean']:+.1f}"
            assert line.endswith(change if how != "none" else shown(row["mean"]))
            assert how == "none" or change.replace("-", "−") in page.text

    def test_ablations_in_order_and_without_an_intact_run(self):
        types = {"x": [50.0], "y": [50.0]}
        ablations = {"a": {"alone": types, "removed": types}}
        results = Results({"a": types}, {"x": 50, "y": 25}, ablations)
        assert list(metrics(results)["ablations"]["a"]) == ["removed", "alone"]
        assert ablation_table(results).splitlines()[1].split()[-1] == "50.0"
        assert "ego tokens removed" in Page(report_html(results)).text

    def test_one_seed_has_no_spread(self):
        results = made_up(seeds=1)
        assert "±" not in table(results) + ablation_table(results) and "one seed, so no spread" in table(results)
        assert "±" not in Page(report_html(results)).text

    def test_seeds_that_agree_have_a_spread_of_zero(self):
        results = Results({"a": {"x": [50.0, 50.0]}}, {"x": 50.0})
        assert "50.0 ± 0.0" in table(results)

    def test_differences_are_paired(self):
        types = {"base": [10.0, 40.0], "control": [11.0, 41.0], "distill": [90.0]}
        found = differences(Results({name: {"x": seeds} for name, seeds in types.items()}, {"x": 50.0}))
        assert found == [("control", "base", {"mean": 1.0, "std": 0.0, "n": 2})]

    def test_metrics_is_json(self, tmp_path):
        results = replace(made_up(), settings={"path": tmp_path, "rate": 1e-3})
        write_report(results, tmp_path / "a" / "b")
        read = json.loads((tmp_path / "a" / "b" / "metrics.json").read_text())
        assert read["variants"] == metrics(results)["variants"] and read["seconds"] == results.seconds
        assert read["settings"] == {"path": str(tmp_path), "rate": 1e-3} and read["ablations"]

    @pytest.mark.parametrize(
        ("variants", "message"),
        [
            ({"a": {"x": [1.0]}}, "a: question types x instead of x, y"),
            ({"a": {"x": [1.0], "y": [1.0, 2.0]}}, "a: seeds x 1, y 2"),
            ({"a": {"x": [], "y": []}}, "a: seeds x 0, y 0"),
            ({"a": {"x": [101.0], "y": [0.0]}, "b": {"x": [0.0], "y": [float("nan")]}}, "a: .*101.0; b: .*nan"),
            ({"chance": {"x": [1.0], "y": [0.0]}}, "a variant is called chance"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_shown_is_refused(self, variants, message):
        with pytest.raises(Ego2ExoError, match=message):
            Results(variants, {"x": 50.0, "y": 25.0})

    def test_ablations_are_checked_too(self):
        good = {"x": [1.0]}
        with pytest.raises(Ego2ExoError, match="a, removed: question types y.*b: an ablation of no variant"):
            Results({"a": good}, good, {"a": {"removed": {"y": [1.0]}}, "b": {"none": good}})


class TestPage:
    def test_sections_and_their_links(self, page):
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        links = [attrs["href"] for attrs in page.all("a")]
        sections = ["table", "ablation", "curves", "items", "looks", "record"]
        assert links == [f"#{name}" for name in sections] and set(sections) <= set(ids)
        assert len(page.all("h1")) == 1 and len(page.all("h2")) == 6 and page.all("html")[0]["lang"] == "en"
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")

    def test_nothing_comes_from_elsewhere(self, html, page):
        assert not page.all("script", "link", "iframe", "object", "base")
        for _, attrs in page.tags:
            for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                assert attrs.get(name, "#").startswith(("#", "data:image/")), attrs[name][:80]
        assert all(url.startswith(("'data:image/", "#")) for url in re.findall(r"url\(([^)]{1,40})", html))
        outside = set(re.findall(r"https?://[\w./]+", html))
        assert outside == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
        assert "@import" not in html

    def test_readable_without_eyes(self, page):
        assert all("alt" in attrs for attrs in page.all("img"))
        assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))
        assert all(attrs.get("scope") in ("col", "row", "rowgroup") for attrs in page.all("th"))
        framed = [attrs for attrs in page.all("div") if attrs.get("class") == "frame"]
        assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in framed)
        assert len(framed) == 2 * 4 * (1 + 4)  # two clips of four frames: plain, and four layers
        assert re.match(r"layer 0, frame 1: \d+% of the attention, most at row \d, column \d", framed[4]["aria-label"])

    def test_light_and_dark(self, html):
        assert "prefers-color-scheme: dark" in html and "color-scheme: light dark" in html
        light, dark = html.split("@media (prefers-color-scheme: dark)")[:2]
        used = set(re.findall(r"var\((--[a-z]\w*)\)", html)) - {f"--f{i}" for i in range(9)}
        assert used == {"--page", "--card", "--ink", "--soft", "--line", "--link", "--good", "--bad"} | {
            f"--c{i}" for i in range(7)
        }
        assert all(f"{name}: #" in light and f"{name}: #" in dark.split("\n  }")[0] for name in used)
        assert not re.search(r"#0a0[bc]", html)  # the figures' own marks

    def test_answers_are_marked_in_words(self, results, page):
        assert page.text.count("✓ right") == sum(a == i.truth for i in results.items for a in i.answers.values())
        assert page.text.count("✗ wrong") == sum(a != i.truth for i in results.items for a in i.answers.values())
        assert page.text.count("The left hand takes the cup, then puts it at the back.") == 3
        assert all(command.split()[0] in page.text for command in results.commands)
        assert "6 min 53 s" in page.text and "71.3 s" in page.text

    def test_what_users_write_stays_text(self):
        bad = made_up(question=EVIL, variants=("base", "distill"))
        item = replace(bad.items[0], question_type=EVIL, truth=EVIL, options=[EVIL], answers={EVIL: EVIL},
                       teacher_answer=EVIL, student_answer=EVIL)  # fmt: skip
        results = Results(
            {EVIL: {EVIL: [50.0]}}, {EVIL: 50.0}, {EVIL: {"none": {EVIL: [50.0]}}}, {EVIL: [[(1, 2.0), (2, 1.0)]]},
            [item], [replace(bad.looks[0], title=EVIL, layers=[EVIL] * 4)], {EVIL: EVIL}, [EVIL], {EVIL: 1.0},
        )  # fmt: skip
        html = report_html(results)
        page = Page(html)
        assert not page.all("script") and "<script" not in html
        assert page.text.count("alert('x')") > 20 and "$x_1$" in page.text
        assert "<script" not in picture(results)
        ElementTree.fromstring(picture(results))

    def test_a_run_with_little_to_show(self):
        page = Page(report_html(Results({"base": {"x": [50.0]}}, {"x": 50.0})))
        assert [attrs["href"] for attrs in page.all("a")] == ["#table", "#record"]
        assert "base 50.0 50.0" in page.text and len(page.all("svg")) == 2
        Page(report_html(Results({}, {"x": 50.0})))

    def test_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        first = write_report(made_up(seeds=1), tmp_path).read_text()
        assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "report.html"]
        monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(Ego2ExoError, match="cannot be written: full"):
            write_report(made_up(seeds=2), tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "report.html"]
        assert (tmp_path / "report.html").read_text() == first

    def test_the_same_results_give_the_same_page(self, results, html):
        assert report_html(results) == html

    def test_without_matplotlib(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(Ego2ExoError, match=r"matplotlib is not installed.*llava-ego2exo\[report\]"):
            write_report(made_up(seeds=1), tmp_path)
        assert not list(tmp_path.iterdir())


class TestFigures:
    def test_the_users_own_style_plays_no_part(self, results, html):
        import matplotlib

        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
            assert report_html(results) == html
            assert matplotlib.rcParams["font.size"] == 30

    def test_long_curves_are_averaged(self):
        curve = [(step, float(step % 2)) for step in range(1, 901)]
        thin = figures._thinned(curve)
        assert len(thin) == 150 and thin[0] == (3.5, 0.5) and thin[-1] == (897.5, 0.5)
        assert figures._thinned(curve[:5]) == curve[:5] and figures._thinned([]) == []

    def test_an_even_layer_looks_even_and_not_hot(self):
        shares, times = report.scaled(np.full((2, 4, 4), 1 / 32))
        assert times == pytest.approx(1.0) and shares == pytest.approx(np.full((2, 4, 4), 0.5))
        sharp = np.zeros((2, 4, 4))
        sharp[1, 2, 3] = 1.0
        shares, times = report.scaled(sharp)
        assert times == 32 and shares.max() == shares[1, 2, 3] == 1.0

    def test_heat_grows_with_attention(self):
        colours = heat(np.linspace(0, 1, 11)).astype(int)
        assert (np.diff(colours[:, 3]) > 0).all() and (np.diff(colours[:, :3].sum(1)) > 0).all()

    def test_attention_lies_on_its_patch(self):
        maps = np.zeros((2, 3, 4, 4))
        maps[1, 2, 1, 3] = 1.0  # last frame, second row of patches, last column
        look = Look("x", np.full((3, 32, 64, 3), 100, np.uint8), maps, ["a", "b"])
        brighter = overlaid(look, 1).astype(int).sum(-1) > 400
        assert not brighter[:2].any()
        assert brighter[2, 8:16, 48:].all() and brighter[2].sum() == 8 * 16

    def test_pictures_are_small(self):
        assert picture_uri(frames(0)[0]).startswith("data:image/png;base64,")
        large = picture_uri(frames(0, size=1000)[0])
        assert large.startswith("data:image/jpeg;base64,") and len(large) < 60_000
        assert picture_uri(heat(np.zeros((4, 4)))).startswith("data:image/png;base64,")


class TestPicture:
    def test_an_image_of_its_own(self, results):
        text = picture(results)
        root = ElementTree.fromstring(text)
        assert len(text) < 150_000 and root.tag.endswith("svg")
        assert "var(--" not in text and not re.search(r"#0a0[bc]", text)
        assert len(root.findall(".//{http://www.w3.org/2000/svg}image")) == 12
        assert set(re.findall(r"https?://[\w./]+", text)) <= {
            "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
        }  # fmt: skip
        words = " ".join(root.itertext())
        assert all(name in words for name in (*MEANS, *CHANCE)) and table(results).splitlines()[1].strip() in words

    def test_bars_alone(self):
        text = picture(replace(made_up(seeds=1), items=(), looks=()))
        assert "<image" not in text
        ElementTree.fromstring(text)


def test_the_numbers_need_no_library():
    code = "import sys, llava_ego2exo.demo.report, llava_ego2exo.demo.picture; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "matplotlib", "jinja2", "PIL", "llava"} & set(loaded)
