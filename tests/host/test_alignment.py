"""Answer tokens of student and teacher, paired."""

import pytest
import torch

from llava_ego2exo.errors import Ego2ExoError
from llava_ego2exo.host.alignment import align_answers, align_turns
from llava_ego2exo.host.answer_pass import Answers, Seen, answers_of


def answers(*rows, limit=None):
    """Rows of labels; 0 stands for what is not supervised, the first position is never an answer."""
    width = max(map(len, rows))
    labels = torch.tensor([[-100] + [v or -100 for v in row] + [-100] * (width - len(row)) for row in rows])
    return answers_of(Seen(labels, [len(row) + 1 for row in rows], limit))


def turn(*tokens):
    return {"tokens": torch.tensor(tokens)}


def test_answers_are_read_row_after_row():
    found = answers([0, 0, 5, 6], [7, 0, 8])
    assert found.tokens.tolist() == [5, 6, 7, 8] and found.rows.tolist() == [0, 0, 1, 1]
    assert found.places.tolist() == [3, 4, 1, 3] and found.cut == [False, False]
    assert answers([5, 6], [5], limit=3).cut == [True, False]


def test_positions_differ_and_tokens_meet():
    student, teacher = answers([0, 5, 6], [0, 9], [0, 0, 7, 8]), answers([0, 0, 0, 7, 8], [5, 0, 6])
    ours, theirs, left_out = align_answers(student, teacher, [2, 0])
    assert student.tokens[ours].tolist() == teacher.tokens[theirs].tolist() == [7, 8, 5, 6]
    assert ours.tolist() == [3, 4, 0, 1] and left_out == 0


@pytest.mark.parametrize("shorter", ["student", "teacher"])
def test_the_common_head_of_a_cut_row(shorter):
    rows = [[0, 5, 6, 7], [0, 5, 6]]
    student, teacher = (answers(row) for row in (reversed(rows) if shorter == "student" else rows))
    ours, theirs, left_out = align_answers(student, teacher, [0])
    assert ours.tolist() == theirs.tolist() == [0, 1]
    assert left_out == (0 if shorter == "student" else 1)


def test_a_row_cut_before_its_answer():
    ours, theirs, left_out = align_answers(answers([0, 5, 6]), answers([0, 0]), [0])
    assert len(ours) == len(theirs) == 0 and left_out == 2


def test_other_tokens_are_refused():
    with pytest.raises(
        Ego2ExoError, match="row 0 of a batch: answer token 1 is 6 for the student and 7 for the teacher"
    ):
        align_answers(answers([0, 5, 6]), answers([0, 5, 7]), [0])


def test_stored_answers_inside_the_template():
    """Template tokens 1 and 2 around the answers, prompt between, in turn order."""
    student = answers([1, 0, 1, 5, 6, 2, 0, 1, 5, 7, 2], [0, 9])
    first, second = turn(5, 6, 2), turn(5, 7)
    ours, parts, left_out = align_turns(student, [0], [[first, second]])
    assert student.tokens[ours].tolist() == [5, 6, 2, 5, 7] and left_out == 0
    assert [(part is expected, count) for (part, count), expected in zip(parts, (first, second), strict=True)] == [
        (True, 3), (True, 2),
    ]  # fmt: skip
    assert len(set(ours.tolist())) == 5


def test_the_same_answer_twice():
    student = answers([1, 5, 2, 0, 1, 5, 2])
    ours, _, _ = align_turns(student, [0], [[turn(5, 2), turn(5, 2)]])
    assert ours.tolist() == [1, 2, 4, 5]


def test_an_answer_does_not_reach_over_a_prompt():
    ours, parts, left_out = align_turns(answers([5, 0, 6]), [0], [[turn(5, 6)]])
    assert len(ours) == 0 and not parts and left_out == 2


def test_another_cutting_of_the_letters_has_no_kl_and_does_not_hide_the_next_turn():
    student = answers([1, 5, 6, 2, 0, 1, 8, 9, 2])
    ours, parts, left_out = align_turns(student, [0], [[turn(4, 2), turn(8, 9)]])
    assert student.tokens[ours].tolist() == [8, 9] and left_out == 2 and len(parts) == 1


def test_a_cut_row_keeps_the_head_of_its_last_answer():
    row = [1, 5, 6, 7]
    ours, parts, left_out = align_turns(answers(row, limit=5), [0], [[turn(5, 6, 7, 8, 2)]])
    assert ours.tolist() == [1, 2, 3] and parts[0][1] == 3 and left_out == 2
    ours, _, left_out = align_turns(answers(row, limit=9), [0], [[turn(5, 6, 7, 8, 2)]])
    assert len(ours) == 0 and left_out == 5


def test_no_tokens():
    empty = Answers(*(torch.empty(0, dtype=torch.int64) for _ in range(3)), cut=[False])
    assert align_turns(empty, [0], [[turn(5)]])[2] == 1 and align_turns(empty, [], [])[2] == 0
