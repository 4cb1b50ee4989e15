"""How a question is put to a model: the wording that the published numbers were made with."""

from __future__ import annotations

from .items import CHOICE, Item

# Part of every record's key and of metrics.json: a change of a wording is another prompt.
VERSION = "published-1"


def prompt_of(item: Item) -> str:
    """The text that a model gets with the clip, without placeholder and chat template."""
    if item.kind != CHOICE:
        return item.question
    options = " ".join(f"({key}) {text}" for key, text in item.choices.items())
    return f"{item.question} The output should be the choice among one of the following choices. Choices are {options}"
