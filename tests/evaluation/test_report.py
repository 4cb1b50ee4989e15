"""The report of an evaluation: what it says, and that nothing in it comes from elsewhere or becomes markup."""

import json
import re
import sys
from dataclasses import replace

import pytest

from llava_ego2exo import Ego2ExoError
from llava_ego2exo.evaluation.items import FAILED, GENERATE, LIKELIHOOD, MODES, UNPARSED, Reply
from llava_ego2exo.evaluation.report import cards
from llava_ego2exo.evaluation.report.report import write_evaluation_report
from llava_ego2exo.evaluation.results import report

from ..pages import Page
from ..videos import COLOURS, render_clip
from .made_up_outcomes import PROVENANCE, described, item, made_up, made_up_rows, outcome

EVIL = "</script><script>alert('x')</script> & \"quoted\" | *bold* $x_1$"


class ReportPage(Page):
    """A written report, and its cards."""

    def __init__(self, path):
        super().__init__(path.read_text())
        self.cards = [attrs for attrs in self.all("details") if attrs.get("class") == "card"]
        self.words = {word for attrs in self.cards for word in attrs["data-words"].split()}
        self.frames = [attrs for attrs in self.all("img") if attrs["alt"].startswith("frame at")]


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
    return write_evaluation_report(tmp_path_factory.mktemp("report"), outcomes, [], PROVENANCE)


@pytest.fixture(scope="module")
def page(written):
    return ReportPage(written)


def test_the_same_numbers_in_every_file_and_the_same_bytes_again(written, page, outcomes, tmp_path):
    assert sorted(file.name for file in written.parent.iterdir()) == ["metrics.json", "report.html", "report.md"]
    found = json.loads((written.parent / "metrics.json").read_text())
    assert found["provenance"] == PROVENANCE and found["accuracy"][0]["n"] == 60
    text = (written.parent / "report.md").read_text()
    for row in found["accuracy"]:
        low, high = row["interval"]
        assert f"{row['accuracy']:.1f} | [{low:.1f}, {high:.1f}]" in text
        assert f"{row['accuracy']:.1f} [{low:.1f}, {high:.1f}]" in page.text
    for row in found["differences"]:
        shown = f"{row['difference']:+.1f}".replace("-", "−") if abs(row["difference"]) >= 0.05 else "0.0"
        assert f"| {shown} |" in text and f" {shown} [" in page.text
    again = write_evaluation_report(tmp_path, outcomes, [], PROVENANCE)
    assert all((again.parent / file.name).read_bytes() == file.read_bytes() for file in written.parent.iterdir())


def test_a_page_that_cannot_be_drawn_leaves_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Ego2ExoError) as caught:
        write_evaluation_report(tmp_path, made_up(count=6), [], {})
    assert "matplotlib" in caught.value.given
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "report.md"]


def test_sections_and_nothing_from_elsewhere(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    sections = ["summary", "categories", "positions", "failures", "items", "provenance"]
    assert [attrs["href"] for attrs in page.all("a")] == [f"#{name}" for name in sections]
    assert len(ids) == len(set(ids)) and set(sections) <= set(ids)
    assert not page.all("link", "iframe", "object", "base", "embed") and page.all("script") == [{}]
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), attrs[name][:80]
    assert not re.search(r"@import|fetch\(|XMLHttp|url\((?!#|'data)", page.html)
    # Readable without eyes and without script.
    assert all("alt" in attrs for attrs in page.all("img"))
    assert len(page.all("svg")) == 1 and all(attrs["aria-label"] for attrs in page.all("svg"))
    assert not [attrs for attrs in page.cards if "hidden" in attrs] and "hidden" in page.all("form")[0]


def test_cards_hold_some_of_everything(page, outcomes):
    assert {f"{asker}:{result}" for asker in range(3) for result in ("right", "wrong", "unparsed")} <= page.words
    assert {"1:differs", "2:differs"} <= page.words and "0:differs" not in page.words
    assert 8 <= len(page.cards) < 60 and len(page.frames) == 6 * len(page.cards)
    few, more, back = (
        {card.name for card in cards.sampled_cards(each, [], "base", count)[0]}
        for each, count in ((outcomes, 1), (outcomes, 3), (outcomes[::-1], 3))
    )
    assert few < more == back and len(more) < 36


def test_what_differs_between_models(page):
    differs, shared = page.text[page.text.index("What differs between the models") :].split("The same for all.")
    assert "settings.bits 16 16 4" in differs and "dtype" not in differs and "settings.dtype bfloat16" in shared


def test_replies_as_given_and_as_read(tmp_path):
    one, scores = item(0, answer="B"), {"A": -2.0, "B": -0.25, "C": -3.5, "D": -9.0}
    outcomes = [
        outcome(one, "base", "B", reply="(B) as I see it"),
        outcome(one, "student", state=UNPARSED, reply="x" * 100_000, flags=("cut",)),
        outcome(one, "other", "C", reply="C", judged=True),
        outcome(one, "empty", state=UNPARSED, flags=("empty",)),
        outcome(one, "base", picked="B", mode=LIKELIHOOD, scores=scores),
    ]
    text = ReportPage(write_evaluation_report(tmp_path, outcomes, [], {})).text
    assert "(B) as I see it" in text and f"B: {one.choices['B']}" in text and "read by the judge" in text
    assert "(99,400 more characters)" in text and "length limit" in text and "empty reply" in text
    assert "B −0.25, A −2.00, C −3.50, D −9.00" in re.sub(r"\s+(?=,)", "", text)
    assert (tmp_path / "report.html").stat().st_size < 100_000


def test_texts_behind_another_key_are_counted(tmp_path):
    one = replace(item(0, answer="B"), choices={"A": "walk", "B": "sit down"})
    replies = {("base", GENERATE): {one.id: Reply(one.id, "k", "A. sit down")},
               ("other", GENERATE): {one.id: Reply(one.id, "k", "A. walk", flags=("cut",))}}  # fmt: skip
    manifest = {"parser": "strict", "judge settings": None}
    found = report(tmp_path, [one], replies, manifest, None)
    assert [(row["model"], row["right"], row["mislabelled"]) for row in found.metrics["accuracy"][::2]] == [
        ("base", 1, 1), ("other", 0, 0),
    ]  # fmt: skip
    assert [one.flags for one in found.outcomes] == [("mislabelled",), ("cut",)]
    assert "mislabelled" in (tmp_path / "report.md").read_text() and "another option's key" in (
        ReportPage(tmp_path / "report.html").text
    )
    found = report(tmp_path, [one], replies, {**manifest, "parser": "viscop"}, None)
    assert not any(row["mislabelled"] for row in found.metrics["accuracy"])
    assert "mislabelled" not in (tmp_path / "report.md").read_text()


def test_failures_by_cause(tmp_path):
    page = ReportPage(write_evaluation_report(tmp_path, made_up(count=60), [], {}))
    assert "18 with no reply, from 1 cause" in page.text and "moov atom not found" in page.text
    failed = [outcome(item(number), state=FAILED, error=f"cause {number}", picked=None) for number in range(120)]
    page = ReportPage(write_evaluation_report(tmp_path, failed, [], {}))
    for text in (page.text, (tmp_path / "report.md").read_text()):
        assert "120 cause" in text and "cause 49 " in text and "cause 50 " not in text


def test_frames_are_of_the_part_and_decoded_once(videos, tmp_path, monkeypatch):
    whole = cards.filmstrip(cards.CardClip(str(videos[0]), None, None))
    part = cards.filmstrip(cards.CardClip(str(videos[0]), 1.0, 2.5))
    assert [second for _, second in whole.frames] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.5]
    assert [second for _, second in part.frames] == [0.0, 0.5, 1.0]  # of three frames, none twice
    assert part.frames[0] == (whole.frames[1][0], 0.0)
    read, kept = [], cards.read_video
    monkeypatch.setattr(cards, "read_video", lambda *given: read.append(given[0]) or kept(*given))
    write_evaluation_report(tmp_path, made_up(videos, count=60), [], {})
    assert sorted(read) == sorted(str(path) for path in videos)


def test_a_clip_that_cannot_be_shown_says_so(videos, tmp_path):
    outcomes = [outcome(item(0)), outcome(item(2, path=str(videos[0]), start_s=4.0, end_s=90.0))]
    page = ReportPage(write_evaluation_report(tmp_path / "out", outcomes, [], {}))
    assert len(page.cards) == 2 and not page.frames and "the video was not found" in page.text
    assert "lasts 6.00 s, but the segment is 4 s to 90 s" in page.text


def test_the_page_stays_small(videos, tmp_path):
    long = [replace(one, reply="word " * 20_000) for one in made_up(videos, count=200, models=("base", "student"))]
    page = write_evaluation_report(tmp_path, long, [], {}, samples=1000)
    assert page.stat().st_size < 5_000_000 and len(ReportPage(page).cards) == cards.MAX_CARDS


def test_what_data_and_models_say_stays_text(tmp_path, videos):
    choices = {"A": EVIL, EVIL: "x"}
    further = dict.fromkeys(("id", "category", "video", "question", "view", "benchmark"), EVIL)
    one = replace(item(0, path=str(videos[0])), choices=choices, **further)
    two = replace(one, id="2", video="other", answer=EVIL)
    given = [
        outcome(one, EVIL, "A", reply=f"{EVIL} half a pair \ud800 \0", flags=(EVIL,)),
        outcome(two, EVIL, state=FAILED, error=EVIL),
        outcome(one, "b", EVIL, mode=LIKELIHOOD, scores={EVIL: -1.0, "A": -2.0}),
    ]
    provenance = {"models": [{"name": EVIL, EVIL: EVIL}, {"name": "b"}], EVIL: EVIL}
    page = ReportPage(write_evaluation_report(tmp_path, given, [], provenance))
    assert page.html.count("<script") == page.html.count("</script>") == 1 and "alert" not in "".join(page.scripts)
    assert page.text.count("alert('x')") > 20 and "half a pair ? \N{REPLACEMENT CHARACTER}" in page.text
    text = (tmp_path / "report.md").read_text()
    assert "<script" not in text and "*bold*" not in text.replace("\\*bold\\*", "")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) > 2 for line in tables)
    json.loads((tmp_path / "metrics.json").read_text())


def test_other_runs(tmp_path, videos):
    page = ReportPage(write_evaluation_report(tmp_path, [], [], {}))
    assert "Nothing was asked." in page.text and not page.cards and not page.all("script", "svg", "table")
    page = ReportPage(write_evaluation_report(tmp_path, made_up(videos, count=12, models=("base",)), [], {}))
    assert "differs" not in page.text and "difference" not in (tmp_path / "report.md").read_text()
    outcomes = made_up(videos, count=12, models=("base", "student"), modes=MODES)
    page = ReportPage(write_evaluation_report(tmp_path, outcomes, [], {}, samples=2, compare_to="student"))
    assert len(page.all("svg")) == 2 and "mode likelihood" in page.text and "points against student" in page.text


def test_descriptions(tmp_path, videos):
    page = ReportPage(write_evaluation_report(tmp_path, [], made_up_rows(videos), {}))
    assert [attrs["href"] for attrs in page.all("a")] == ["#descriptions", "#failures", "#items"]
    assert "A person opens the fridge, takes a bottle" in page.text and "She opens the fridge." in page.text
    assert re.search(r"correctness [1-4] detail [1-4] context [1-4] temporal missing", page.text)
    assert "4 with scores missing and 2 with no reply" in page.text and "the judge gave 11" in page.text
    assert page.words == {f"{asker}:{state}" for asker in (0, 1) for state in ("judged", "unjudged")}
    first = described(0)
    parts = tuple(
        replace(first.items[0], id=f"p{n}", part=str(n), path=str(videos[0]), start_s=n / 4, end_s=(n + 1) / 4)
        for n in range(20)
    )
    row = replace(first, items=parts, replies=tuple(f"part {n} of it" for n in range(20)), summary="All in short.")
    page = ReportPage(write_evaluation_report(tmp_path, [], [row], {}))
    assert "All in short." in page.text and "and 12 more replies" in page.text and len(page.frames) == 6
    assert "part 7 of it" in page.text and "part 8 of it" not in page.text and "0.0 s to 5.0 s" in page.text
