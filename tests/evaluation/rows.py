"""Miniature rows of every layout, made up."""

import json

CURRENT = {
    "video_filename": "a/kitchen_1.mp4",
    "question": " What happens next? ",
    "answer_choices": {"A": "open jar", "B": "close jar", "C": "wash hands"},
    "ground_truth_letter": "B",
}
EGO_IN_EXO = {**CURRENT, "video_filename": "take7_0003_exo12", "category_name": "Hand Identification"}
EXO_FILE = {
    "exo_filename": "cam/t7 left.mov",
    "ego_filename": "aria/t7.mp4",
    "question": "Which hand?",
    "answer_choices": {"A": "left", "B": "right"},
    "ground_truth": "B",
}
CHARADES = {
    "id": "QX7",
    "Q": "What is done?",
    "Options": "1. ['Open a box', \"Fold someone's shirt\"] 2. ['Open a box'] 3. ['Sit 2. [down]', 'Stand']",
    "Ground Truth": ["Sit 2. [down]", "Stand"],
}
SMARTHOME = {
    "video_id": "/data/x/Walk.Fast_p1.mp4",
    "question": "Which one? ",
    "choices": {"1": "walking", "2": "reading ", "3": "cooking"},
    "ground_truth": "Reading",
}
SPANS = {
    "video_id": "12l-1",
    "question": "And then?",
    "choices": {"A": "a b", "B": "c d", "C": "e", "D": "ff", "E": "gg", "F": "hh"},
    "answer": "F",
    "start_frame": 60,
    "end_frame": 180,
    "start_timestamp": 2,
    "end_timestamp": 6.0,
}
OPTIONS = {
    "video_path": "P1/T2/clips/clip_3.mp4",
    "question": "Between?",
    "options": {"A": "Walk", "B": "Use_cup"},
    "correct_answer": "A",
}
DESCRIBED = {
    "video_name": "QX7",
    "Q": "What happens?",
    "A": "A man folds a shirt.",
    "cons_Q1": "Say it.",
    "cons_Q2": "Say it again.",
    "cons_A": "He folds.",
}
TSU = {"P02T01": "She walks in and makes tea."}

# benchmark -> a file of it with one row
FILES = {
    "ego-in-exo": [[EGO_IN_EXO], [EXO_FILE]],
    "adlx-charades-ar": [[CURRENT], [CHARADES]],
    "adlx-smarthome-ar": [[CURRENT], {"0": SMARTHOME}],
    "adlx-lemma-tc": [[CURRENT], {"0": SPANS}],
    "adlx-tsu-tc": [[CURRENT], [OPTIONS]],
    "adlx-charades-desc": [[DESCRIBED]],
    "adlx-tsu-desc": [TSU],
}


def written(path, value):
    """The file, with the value as JSON, or the text or bytes themselves."""
    if not isinstance(value, (str, bytes)):
        value = json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
    return path
