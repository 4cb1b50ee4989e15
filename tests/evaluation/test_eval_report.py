"""The report of an evaluation: what stands in it, what may not, and that it can be read from disk by anyone."""

import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation import report_clips, report_items
from llava_ego2exo.evaluation.outcomes import FAILED, GENERATE, LIKELIHOOD, MODES, UNPARSED
from llava_ego2exo.evaluation.report import write_report

from ..videos import COLOURS, render_clip
from .made_up_outcomes import PROVENANCE, described, item, made_up, made_up_rows, outcome

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}
EVIL = "</script><script>alert('x')</script> & \"quoted\" | *bold* $x_1$"


class Page(HTMLParser):
    """Tags with their attributes, and text; refuses tags that do not close in order."""

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text()
        self.tags, self.open, self.texts, self.scripts = [], [], [], []
        self.feed(self.html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        # Within a drawing and a script the browser's rules are other ones, but ours close all the same.
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.texts).append(data)

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def cards(self):
        return [attrs for attrs in self.all("details") if attrs.get("class") == "card"]

    @property
    def frames(self):
        return [attrs for attrs in self.all("img") if attrs["alt"].startswith("frame at")]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, colour in enumerate(COLOURS):
        render_clip(folder / f"{colour}.mp4", colour, "right", frames=12, seed=number)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def outcomes(videos):
    return made_up(videos, count=60)


@pytest.fixture(scope="module")
def written(outcomes, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), outcomes, [], PROVENANCE)


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


class TestFiles:
    def test_all_three(self, written, outcomes):
        assert sorted(file.name for file in written.parent.iterdir()) == ["metrics.json", "report.html", "report.md"]
        found = json.loads((written.parent / "metrics.json").read_text())
        assert found["provenance"] == PROVENANCE and found["models"] == ["base", "student", "student-4bit"]
        assert found["accuracy"][0]["n"] == 60

    def test_the_same_numbers_everywhere(self, written, page):
        found = json.loads((written.parent / "metrics.json").read_text())
        text = (written.parent / "report.md").read_text()
        for row in found["accuracy"]:
            low, high = row["interval"]
            assert f"{row['accuracy']:.1f} | [{low:.1f}, {high:.1f}]" in text
            assert f"{row['accuracy']:.1f} [{low:.1f}, {high:.1f}]" in page.text
        for row in found["differences"]:
            shown = f"{row['difference']:+.1f}".replace("-", "−") if abs(row["difference"]) >= 0.05 else "0.0"
            assert f"| {shown} |" in text and f" {shown} [" in page.text

    def test_the_same_outcomes_give_the_same_bytes(self, outcomes, written, tmp_path):
        again = write_report(tmp_path, outcomes, [], PROVENANCE)
        for file in written.parent.iterdir():
            assert (again.parent / file.name).read_bytes() == file.read_bytes()

    def test_a_page_that_cannot_be_drawn_leaves_the_numbers(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(Ego2ExoError, match="matplotlib is not installed"):
            write_report(tmp_path, made_up(count=6), [], {})
        assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "report.md"]

    def test_what_cannot_be_counted_writes_nothing(self, tmp_path):
        with pytest.raises(Ego2ExoError, match="stands twice"):
            write_report(tmp_path / "out", [outcome(item(0))] * 2, [], {})
        assert not (tmp_path / "out").exists()

    def test_compared_with_another(self, outcomes, tmp_path):
        write_report(tmp_path, outcomes, [], PROVENANCE, compare_to="student", samples=1)
        assert "points against student" in (tmp_path / "report.md").read_text()


class TestPage:
    def test_sections_and_their_links(self, page):
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        sections = ["summary", "categories", "positions", "failures", "items", "provenance"]
        assert [attrs["href"] for attrs in page.all("a")] == [f"#{name}" for name in sections] and set(sections) <= set(
            ids
        )
        assert len(page.all("h1")) == 1 and len(page.all("h2")) == 6 and page.all("html")[0]["lang"] == "en"

    def test_nothing_comes_from_elsewhere(self, page):
        assert not page.all("link", "iframe", "object", "base", "embed") and page.all("script") == [{}]
        for _, attrs in page.tags:
            for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                assert attrs.get(name, "#").startswith(("#", "data:image/")), attrs[name][:80]
        outside = set(re.findall(r"https?://[\w./]+", page.html))
        assert outside == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
        assert not re.search(r"@import|fetch\(|XMLHttp|url\((?!#|'data)", page.html)

    def test_readable_without_eyes_and_without_script(self, page):
        assert all("alt" in attrs for attrs in page.all("img"))
        assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in page.all("svg"))
        assert all(attrs.get("scope") in ("col", "row", "rowgroup") for attrs in page.all("th"))
        assert not [attrs for attrs in page.cards if "hidden" in attrs] and "hidden" in page.all("form")[0]
        unseen = len(re.findall(r'<span class="unseen"> (?:right|wrong|unparsed|failed)</span>', page.html))
        words = [word for attrs in page.cards for word in attrs["data-words"].split()]
        assert unseen == sum(not word.endswith(":differs") for word in words)

    def test_light_and_dark(self, page):
        light, dark = page.html.split("@media (prefers-color-scheme: dark)")[:2]
        used = set(re.findall(r"var\((--[a-z]\w*)\)", page.html))
        assert used and all(f"{name}: #" in light and f"{name}: #" in dark.split("\n  }")[0] for name in used)
        assert not re.search(r"#0a0[bc]", page.html)  # the drawings' own marks

    def test_the_chart(self, page):
        assert len(page.all("svg")) == 1
        chart = page.html[page.html.index("<svg") : page.html.index("</svg>")]
        assert "percent right" in chart and "Hand-object" in chart
        assert all(f"var(--c{number})" in chart for number in range(3)) and "var(--c3)" not in chart

    def test_cards_hold_some_of_everything(self, page):
        words = {word for attrs in page.cards for word in attrs["data-words"].split()}
        assert {f"{asker}:{result}" for asker in range(3) for result in ("right", "wrong", "unparsed")} <= words
        assert {"1:differs", "2:differs"} <= words and "0:differs" not in words
        assert 8 <= len(page.cards) < 60 and len(page.frames) == 6 * len(page.cards)
        assert f"{len(page.cards)} of them, drawn by a fixed rule" in page.text
        assert page.text.count("✓ right answer") == len(page.cards)

    def test_what_was_said_and_read(self, tmp_path):
        one = item(0, answer="B")
        outcomes = [
            outcome(one, "base", "B", reply="(B) as I see it"),
            outcome(one, "student", state=UNPARSED, reply="x" * 100_000, flags=("cut",)),
            outcome(one, "other", "C", reply="C", judged=True),
            outcome(one, "empty", state=UNPARSED, flags=("empty",)),
        ]
        text = Page(write_report(tmp_path, outcomes, [], {})).text
        assert "(B) as I see it" in text and f"B: {one.choices['B']}" in text and "read by the judge" in text
        assert "(99,400 more characters)" in text and "it reached the length limit" in text and "an empty reply" in text
        assert (tmp_path / "report.html").stat().st_size < 100_000

    def test_log_probabilities_the_most_likely_first(self, tmp_path):
        scores = {"A": -2.0, "B": -0.25, "C": -3.5, "D": -9.0}
        page = write_report(tmp_path, [outcome(item(0), picked="B", mode=LIKELIHOOD, scores=scores)], [], {})
        assert "log-probabilities: B −0.25, A −2.00, C −3.50, D −9.00" in re.sub(r"\s+(?=,)", "", Page(page).text)

    def test_failures_by_cause(self, tmp_path):
        page = Page(write_report(tmp_path, made_up(count=60), [], {}))
        assert "18 without a reply, from 1 cause." in page.text and "moov atom not found" in page.text
        failed = [outcome(item(number), state=FAILED, error=f"cause {number}", picked=None) for number in range(120)]
        text = Page(write_report(tmp_path, failed, [], {})).text
        assert "120 without a reply, from 120 causes; the first 50 are listed" in text
        assert "cause 49 " in text and "cause 50 " not in text
        assert "cause 49 " in (tmp_path / "report.md").read_text()

    def test_what_differs_between_models(self, page):
        text = page.text
        differs, shared = text[text.index("What differs between the models") :].split("The same for all.")
        assert "checkpoint a1a1" in differs and "settings.bits 16 16 4" in differs and "dtype" not in differs
        assert "settings.dtype bfloat16" in shared and "versions.torch 2.13.0" in shared and "parser strict" in shared


class TestClips:
    def test_frames_are_of_the_part(self, videos):
        whole = report_clips.strip(report_clips.Clip(str(videos[0]), "v", None, None))
        part = report_clips.strip(report_clips.Clip(str(videos[0]), "v", 1.0, 2.5))
        assert [second for _, second in whole.frames] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.5]
        assert [second for _, second in part.frames] == [0.0, 0.5, 1.0]  # of three frames, none twice
        assert part.frames[0] == (whole.frames[1][0], 0.0)

    def test_decoded_once(self, videos, tmp_path, monkeypatch):
        read, kept = [], report_clips.read_video
        monkeypatch.setattr(report_clips, "read_video", lambda *given: read.append(given[0]) or kept(*given))
        write_report(tmp_path, made_up(videos, count=60), [], {})
        assert sorted(read) == sorted(str(path) for path in videos)

    def test_a_video_that_cannot_be_read_says_so(self, tmp_path):
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        paths = [str(tmp_path / "bad.mp4"), str(tmp_path / "gone.mp4"), ""]
        outcomes = [outcome(item(number, path=path)) for number, path in enumerate(paths)]
        page = Page(write_report(tmp_path / "out", outcomes, [], {}))
        assert len(page.cards) == 3 and not page.frames
        assert "bad.mp4 does not decode" in page.text and "gone.mp4 is not there" in page.text
        assert "No frames: the video was not found. exo:2 · video t2.mp4" in page.text

    def test_a_part_beyond_the_end_says_so(self, videos, tmp_path):
        one = item(0, path=str(videos[0]), start_s=4.0, end_s=90.0)
        text = Page(write_report(tmp_path, [outcome(one)], [], {})).text
        assert "lasts 6.00 s, and the part is 4 s to 90 s" in text and "4.0 s to 90.0 s" in text


class TestSample:
    def test_the_same_whatever_the_order(self, outcomes):
        first, second = (report_items.sampled(each, [], "base", 3)[0] for each in (outcomes, list(reversed(outcomes))))
        assert {card.name for card in first} == {card.name for card in second} and len(first) < 36

    def test_more_samples_keep_the_first(self, outcomes):
        few, more = ({card.name for card in report_items.sampled(outcomes, [], "base", count)[0]} for count in (1, 4))
        assert few < more

    def test_the_page_stays_small(self, videos, tmp_path, monkeypatch):
        monkeypatch.setattr(report_items, "BUDGET", 200_000)
        page = Page(write_report(tmp_path, made_up(videos, count=200), [], {}))
        assert len(page.html) < 400_000 and 2 < len(page.cards) < 30
        assert re.search(r"; \d+ more were drawn and left out, to keep this page small", page.text)

    def test_however_much_there_is(self, tmp_path):
        long = [
            replace(one, reply="word " * 20_000 if one.mode == GENERATE else "")
            for one in made_up(count=200, models=("base", "student"), modes=MODES)
        ]
        page = write_report(tmp_path, long, [], {}, samples=1000)
        assert page.stat().st_size < 5_000_000 and len(Page(page).cards) <= report_items.MOST


class TestText:
    def test_what_data_and_models_say_stays_text(self, tmp_path, videos):
        choices = {"A": EVIL, EVIL: "x"}
        one = replace(
            item(0, path=str(videos[0])), id=EVIL, category=EVIL, video=EVIL, question=EVIL, choices=choices, view=EVIL
        )
        two = replace(one, id="2", video="other", answer=EVIL)
        given = [
            outcome(one, EVIL, "A", reply=EVIL, flags=(EVIL,)), outcome(two, EVIL, state=FAILED, error=EVIL),
            outcome(one, "b", EVIL, mode=LIKELIHOOD, scores={EVIL: -1.0, "A": -2.0}),
        ]  # fmt: skip
        given = [replace(one, item=replace(one.item, benchmark=EVIL)) for one in given]
        path = write_report(tmp_path, given, [], {"models": [{"name": EVIL, EVIL: EVIL}, {"name": "b"}], EVIL: EVIL})
        page = Page(path)
        assert page.html.count("<script") == page.html.count("</script>") == 1 and "alert" not in "".join(page.scripts)
        assert page.text.count("alert('x')") > 20
        text = (tmp_path / "report.md").read_text()
        assert "<script" not in text and "*bold*" not in text.replace("\\*bold\\*", "")
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) > 2 for line in tables)

    def test_what_no_file_can_hold(self, tmp_path):
        one = item(0)
        one = replace(one, question="half a pair \ud800", category="\udfff")
        path = write_report(tmp_path, [outcome(one, reply="a\0b \ud83d", picked="A")], [], {"a": "\ud800"})
        assert "a\N{REPLACEMENT CHARACTER}b ?" in Page(path).text and "half a pair ?" in Page(path).text
        json.loads((tmp_path / "metrics.json").read_text())


class TestOtherRuns:
    def test_nothing(self, tmp_path):
        page = Page(write_report(tmp_path, [], [], {}))
        assert "Nothing was asked." in page.text and not page.cards and not page.all("script", "svg", "table")
        assert "Nothing was asked." in (tmp_path / "report.md").read_text()

    def test_one_model_has_no_difference(self, tmp_path, videos):
        page = Page(write_report(tmp_path, made_up(videos, count=30, models=("base",)), [], {}))
        assert "difference" not in page.text.replace("that of a difference", "") and "differs" not in page.text
        assert "difference" not in (tmp_path / "report.md").read_text()

    def test_both_modes_and_views(self, tmp_path, videos):
        outcomes = made_up(videos, count=24, models=("base", "student"), modes=MODES)
        ego = [replace(one, item=replace(one.item, view="ego", id=f"ego:{one.item.row}")) for one in outcomes]
        page = Page(write_report(tmp_path, outcomes + ego, [], {}, samples=2))
        assert len(page.all("svg")) == 4 and "mode likelihood, ego view" in page.text
        assert "student, likelihood" in page.text and "log-probabilities" in page.text
        words = {word for attrs in page.cards for word in attrs["data-words"].split()}
        assert {f"{asker}:right" for asker in range(4)} <= words

    def test_descriptions(self, tmp_path, videos):
        page = Page(write_report(tmp_path, [], made_up_rows(videos), {}))
        assert [attrs["href"] for attrs in page.all("a")] == ["#descriptions", "#failures", "#items"]
        assert "A person opens the fridge, takes a bottle" in page.text and "She opens the fridge." in page.text
        assert re.search(r"correctness [1-4] detail [1-4] context [1-4] temporal missing", page.text)
        assert "2 without a reply and 4 with marks missing" in page.text and "the judge gave 11" in page.text
        words = {word for attrs in page.cards for word in attrs["data-words"].split()}
        assert words == {f"{asker}:{state}" for asker in (0, 1) for state in ("judged", "unjudged", "failed")}

    def test_a_description_in_many_parts(self, tmp_path, videos):
        first = described(0)
        parts = tuple(
            replace(first.items[0], id=f"p{n}", part=str(n), path=str(videos[0]), start_s=n / 4, end_s=(n + 1) / 4)
            for n in range(20)
        )
        replies = tuple(f"part {n} of it" for n in range(20))
        row = replace(first, items=parts, replies=replies, summary="All of it in short.")
        page = Page(write_report(tmp_path, [], [row], {}))
        assert "summary, which was judged All of it in short." in page.text and "and 12 more replies" in page.text
        assert "part 7 of it" in page.text and "part 8 of it" not in page.text and "0.0 s to 5.0 s" in page.text
        assert len(page.frames) == 6


def test_light_to_import():
    code = (
        "import sys, llava_ego2exo.evaluation.report, llava_ego2exo.evaluation.metrics\n"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'decord', 'PIL', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
