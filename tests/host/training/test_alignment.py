"""Answer tokens of student and teacher, paired."""

import pytest
import torch

from llava_ego2exo.demo.models import tiny_tokenizer
from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.model.answer_tokens import ExpandedLabels, align_answers, answers_of
from llava_ego2exo.host.training.stored_answers import align_turns, beginnings


def answers(*rows, limit=None):
    """Rows of labels; 0 stands for what is not supervised, the first position is never an answer."""
    width = max(map(len, rows))
    labels = torch.tensor([[-100] + [v or -100 for v in row] + [-100] * (width - len(row)) for row in rows])
    return answers_of(ExpandedLabels(labels, [len(row) + 1 for row in rows], limit))


def turn(*tokens):
    return {"tokens": torch.tensor(tokens)}


def test_the_common_beginning_of_a_cut_row():
    long, short = answers([0, 5, 6, 7]), answers([0, 5, 6])
    for student, teacher, missing in ((short, long, 0), (long, short, 1)):
        student_at, teacher_at, unmatched = align_answers(student, teacher, [0])
        assert student_at.tolist() == teacher_at.tolist() == [0, 1] and unmatched == missing
    none, _, unmatched = align_answers(answers([0, 5, 6]), answers([0, 0]), [0])
    assert len(none) == 0 and unmatched == 2


def test_other_tokens_are_refused():
    with pytest.raises(Ego2ExoError, match="token 1 is 6 for the student and 7 for the teacher"):
        align_answers(answers([0, 5, 6]), answers([0, 5, 7]), [0])


def test_stored_answers_inside_the_template():
    """Template tokens 1 and 2 around the answers, prompt between, in turn order."""
    student = answers([1, 0, 1, 5, 6, 2, 0, 1, 5, 7, 2], [0, 9])
    first, second = turn(5, 6, 2), turn(5, 7)
    found, parts, unmatched = align_turns(student, [0], [[first, second]])
    assert student.tokens[found].tolist() == [5, 6, 2, 5, 7] and unmatched == 0
    assert parts == [(first, slice(0, 3)), (second, slice(0, 2))]
    assert align_turns(answers([1, 5, 2, 0, 1, 5, 2]), [0], [[turn(5, 2), turn(5, 2)]])[0].tolist() == [1, 2, 4, 5]
    assert align_turns(answers([5, 0, 6]), [0], [[turn(5, 6)]])[1:] == ([], 2)  # not over a prompt
    assert align_turns(answers([0, 0]), [0], [[turn(5)]])[1:] == ([], 1)


def test_another_tokenization_has_no_kl_and_does_not_hide_the_next_turn():
    student = answers([1, 5, 6, 2, 0, 1, 8, 9, 2])
    found, parts, unmatched = align_turns(student, [0], [[turn(4, 2), turn(8, 9)]])
    assert student.tokens[found].tolist() == [8, 9] and unmatched == 2 and len(parts) == 1


def test_a_cut_row_keeps_the_head_of_its_last_answer():
    row = [1, 5, 6, 7]
    found, parts, unmatched = align_turns(answers(row, limit=5), [0], [[turn(5, 6, 7, 8, 2)]])
    assert found.tolist() == [1, 2, 3] and parts[0][1] == slice(0, 3) and unmatched == 2
    found, _, unmatched = align_turns(answers(row, limit=9), [0], [[turn(5, 6, 7, 8, 2)]])
    assert len(found) == 0 and unmatched == 5


def test_an_answer_whose_first_token_lost_its_blank():
    """Stored 4 (with a blank) 5 6 2, written 9 5 6 2: all but the first token have their own logits."""
    stored = {**turn(4, 5, 6, 2), "beginnings": [(1, [9])]}
    student = answers([1, 2, 0, 1, 9, 5, 6, 2])
    found, parts, unmatched = align_turns(student, [0], [[stored]])
    assert found.tolist() == [4, 5, 6] and student.tokens[found].tolist() == [5, 6, 2]
    assert parts == [(stored, slice(1, 4))] and unmatched == 1
    for other in ([1, 8, 5, 6, 2], [1, 9, 0, 5, 6, 2]):  # another first word, a prompt between
        assert align_turns(answers(other), [0], [[stored]])[2] == 4


def test_a_whole_answer_is_preferred_and_an_end_alone_is_none():
    whole = {**turn(4, 5, 2), "beginnings": [(1, [9])]}
    assert align_turns(answers([9, 5, 2, 4, 5, 2]), [0], [[whole]])[0].tolist() == [3, 4, 5]
    assert align_turns(answers([1, 2, 0, 1, 7, 2]), [0], [[{**turn(8, 2), "beginnings": [(1, [])]}]])[2] == 2


def test_beginnings(tmp_path):
    from transformers import AutoTokenizer

    words = [" red block", " green"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, "qwen", words))
    red, end = tokenizer(" red", add_special_tokens=False).input_ids, tokenizer.eos_token_id
    bare = tokenizer("red", add_special_tokens=False).input_ids
    assert len(red) > 1 or tokenizer.decode(red).startswith(" ")
    for skip, head in (found := beginnings([*red, end], tokenizer)):
        assert [*head, *[*red, end][skip:]] == [*bare, end]
    assert len(found) == 1
    line = tokenizer("\n", add_special_tokens=False).input_ids
    assert beginnings([*line, *bare, end], tokenizer) == [(1, [])]
    assert [skip for skip, _ in beginnings([*line, *red, end], tokenizer)] == [1, 2]
    assert beginnings([*bare, end], tokenizer) == [] == beginnings([end], tokenizer) == beginnings([], tokenizer)
