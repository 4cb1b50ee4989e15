"""The server's page in a real browser: what it asks, shows and draws."""

import shutil

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")
from playwright.sync_api import expect, sync_playwright

from llava_ego2exo import ask
from llava_ego2exo.host.model.inspection import video_attention_maps
from llava_ego2exo.video import read_video
from tests.videos import QUESTION

from .conftest import FRAMES, NEW

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian: apt-get install chromium)")


@pytest.fixture
def page(served):
    """The page, with the key given; every error of its script fails the test."""
    with sync_playwright() as run:
        browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        shown, errors = browser.new_page(), []
        shown.set_default_timeout(20_000)
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.goto(f"http://127.0.0.1:{served.port}/")
        shown.wait_for_selector("#locked:not([hidden])")
        shown.fill("#key", "key")
        shown.locator("#key").blur()
        shown.wait_for_selector("#models input")
        yield shown
        browser.close()
        assert not errors, errors


def answers(page):
    """The texts of the models' cards, once both have answered."""
    expect(page.locator("#stop")).to_be_disabled(timeout=20_000)
    return [page.locator("#answers .card").nth(number).inner_text() for number in range(2)]


def test_a_listed_clip_is_asked_about_and_seen(page, served):
    video = sorted(served.videos.glob("*.mp4"))[0]
    flags = {"template": served.template, "frames_upbound": FRAMES, "max_new_tokens": NEW}
    page.select_option("#video", video.name)
    page.wait_for_selector("#frames figure")  # the models are the test's as well: one user at a time
    expected = [f"{name}\n{ask(served.loaded[name], str(video), QUESTION, **flags)}" for name in ("student", "base")]
    page.fill("#question", QUESTION)
    page.click("#ask")
    assert [" ".join(one.split()) for one in answers(page)] == [" ".join(one.split()) for one in expected]

    model, processor = served.loaded["student"][1:3]
    clip = read_video(str(video), frames_upbound=FRAMES)
    pixels = processor.preprocess(list(clip.frames), return_tensors="pt")["pixel_values"]
    maps = video_attention_maps(model, pixels).maps
    assert page.locator("#frames img").count() == FRAMES == len(clip.frames)
    for layer, token, own in ((len(maps) - 1, 0, maps[-1].mean(0)), (0, 2, maps[0, 1])):
        page.evaluate("""([layer, token]) => {
            for (const [id, value] of [["layer", layer], ["token", token]]) {
                const one = document.getElementById(id); one.value = value; one.dispatchEvent(new Event("input"));
            }}""", [layer, token])  # fmt: skip
        shares = (100 * own.sum((1, 2))).tolist()
        captions = page.locator("#frames figcaption").all_inner_texts()
        assert [float(text.split(":")[1].strip(" %")) for text in captions] == pytest.approx(shares, abs=0.51)
        strongest = page.evaluate("""() => [...document.querySelectorAll("#frames canvas")].map(canvas => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return Math.max(...data.filter((_, i) => i % 4 === 3)); })""")  # fmt: skip
        assert strongest.index(max(strongest)) == int(own.amax((1, 2)).argmax())
    page.select_option("#view", "base")  # which has no ego tokens: its frames alone
    expect(page.locator("#frames figcaption").first).to_have_text("0.0 s", timeout=20_000)
    expect(page.locator("#sliders")).to_be_hidden()


def test_a_clip_of_ones_own_and_options(page, served):
    video, options = sorted(served.videos.glob("*.mp4"))[1], ["A red block moves left.", "A blue block moves right."]
    page.set_input_files("#file", str(video))
    page.wait_for_selector("#frames figure")
    page.fill("#question", QUESTION)
    page.fill("#options", " , ".join(options))
    page.click("#ask")
    flags = {"template": served.template, "frames_upbound": FRAMES}
    for name, card in zip(("student", "base"), answers(page), strict=True):
        expected = ask(served.loaded[name], str(video), QUESTION, choices=options, **flags)
        first = max(expected, key=expected.get)
        shown = " ".join(card.split())
        assert shown.index(first) == min(map(shown.index, options))
        assert f"{first} {100 * expected[first]:.1f} %" in shown


def test_what_goes_wrong_is_shown(page, tmp_path):
    page.fill("#question", QUESTION)
    page.click("#ask")
    assert page.inner_text("#fault") == "Choose a clip."
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    page.set_input_files("#file", str(tmp_path / "broken.mp4"))
    expect(page.locator("#fault")).to_contain_text("the video", timeout=20_000)
    page.fill("#key", "another")
    page.locator("#key").blur()
    expect(page.locator("#fault")).to_contain_text("API key", timeout=20_000)
