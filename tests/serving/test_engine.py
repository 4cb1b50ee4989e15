"""The queue: places, batches of one shape, requests that nobody waits for any longer, faults."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("fastapi")
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.inference.steering import Row, Steering, draw
from llava_ego2exo.serving.engine import Engine, Job, QueueFullError


class Model:
    """Answers when it may, and keeps what it was asked together."""

    def __init__(self):
        self.may, self.batches = threading.Event(), []

    def generate(self, clips, prompts, rows):
        self.batches.append(list(prompts))
        assert self.may.wait(10)
        if "break" in prompts:
            raise RuntimeError("out of luck")
        return [Ego2ExoError("too long") if prompt == "long" else None for prompt in prompts]


@pytest.fixture
def model():
    return Model()


def engine_of(model, **given):
    return Engine({"m": model}, **{"size": 3, "batch": 2, "timeout": 10, **given})


def job(text, found, frames=2):
    clip = SimpleNamespace(pixels=torch.zeros(frames, 3, 4, 4))
    return Job("m", clip, text, Row(4), lambda result: found.append((text, result)))


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_jobs_of_one_shape_go_together_in_their_order(model):
    engine, found = engine_of(model, size=9), []
    engine.submit(job("first", found))
    until(lambda: engine.running)
    for text, frames in (("a", 2), ("b", 3), ("c", 2), ("d", 2)):
        engine.submit(job(text, found, frames))
    model.may.set()
    until(lambda: len(found) == 5)
    assert model.batches == [["first"], ["a", "c"], ["b"], ["d"]]
    engine.close()


def test_a_full_queue_turns_away_and_a_cancelled_job_frees_its_place(model):
    engine, found = engine_of(model), []
    engine.submit(job("running", found))
    until(lambda: engine.running)
    waiting = [job(text, found) for text in "abc"]
    for one in waiting:
        engine.submit(one)
    with pytest.raises(QueueFullError) as error:
        engine.submit(job("d", found))
    assert error.value.seconds >= 1
    engine.cancel(waiting[1])
    engine.submit(job("d", found))
    model.may.set()
    until(lambda: len(found) == 4)
    assert sorted(text for text, _ in found) == ["a", "c", "d", "running"]
    engine.close()


def test_a_fault_ends_its_batch_alone_and_a_late_job_is_given_up(model):
    model.may.set()
    engine, found = engine_of(model, batch=1), []
    for text in ("break", "long", "good"):
        engine.submit(job(text, found))
    until(lambda: len(found) == 3)
    kinds = {text: type(result) for text, result in found}
    assert kinds == {"break": RuntimeError, "long": Ego2ExoError, "good": type(None)}
    late = job("late", found)
    late.since -= 11
    engine.submit(late)
    until(lambda: len(found) == 4)
    assert isinstance(found[-1][1], TimeoutError) and ["late"] not in model.batches
    engine.close()


def test_what_a_call_gives_or_refuses_is_told_and_counted(model):
    def refuse(_model):
        raise Ego2ExoError("no")

    ended, found = [], []
    engine = engine_of(model, batch=1, finished=lambda jobs, _: ended.extend(one.row.reason for one in jobs))
    for call in (lambda given: given is model, refuse):
        one = job("", found)
        one.call = call
        engine.submit(one)
    until(lambda: len(found) == 2)
    assert found[0][1] is True and isinstance(found[1][1], Ego2ExoError) and ended == ["", "error"]
    engine.close()


class Words:
    """A tokenizer whose tokens are words with a blank in front."""

    def decode(self, ids, skip_special_tokens):
        return "".join(f" {'zero one two three four five'.split()[i]}" for i in ids if i)


def steered(row, tokens):
    steering, pieces = Steering([row], Words(), [0]), []
    row.report = pieces.append
    for token in tokens:
        if not row.reason:
            steering.advance(row, token)
    assert "".join(pieces) == row.text
    return row.text, row.reason, len(row.tokens)


def test_a_row_ends_as_it_was_asked_to():
    assert steered(Row(9), [1, 2, 0]) == ("one two", "stop", 3)
    assert steered(Row(2), [1, 2, 3]) == ("one two", "length", 2)
    assert steered(Row(9, stop=["two three"]), [1, 2, 3, 4]) == ("one", "stop", 3)
    assert steered(Row(9, stop=["two three"]), [1, 2, 4, 0]) == ("one two four", "stop", 4)
    assert steered(Row(9, cancelled=lambda: True), [1, 2])[1:] == ("cancelled", 1)


def test_draws_follow_the_distribution():
    logits, generator = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.Generator().manual_seed(0)
    for temperature, top_p, kept in ((1.0, 1.0, 4), (0.5, 1.0, 4), (1.0, 0.8, 2), (1.0, 0.01, 1)):
        counts = torch.zeros(4)
        for _ in range(4000):
            counts[draw(logits, temperature, top_p, generator)] += 1
        expected = (logits / temperature).softmax(0)
        expected[kept:] = 0
        assert counts / 4000 == pytest.approx(expected / expected.sum(), abs=0.03)
