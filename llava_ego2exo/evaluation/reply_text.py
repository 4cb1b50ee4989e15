"""A reply as plain text: without end tokens, tags, Markdown, and what a model thought aloud before it answered."""

from __future__ import annotations

import re
import unicodedata

_THOUGHT = re.compile(r"<think(?:ing)?>|</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>([^<]*)(?:</answer>|$)", re.IGNORECASE)
# Tokens such as <|im_end|>, and tags.
_TAGS = re.compile(r"<\|[^|<>]{1,40}\|>|</?[A-Za-z][A-Za-z_]{0,20}>")
_MARKS = re.compile(r"[*_`#$]+|\\(?:text(?:bf|it|rm)?|math(?:bf|rm|it))(?![A-Za-z])")
_SPEAKER = re.compile(r"\s*assistant\s*[:\n]", re.IGNORECASE)
_QUOTES = str.maketrans("‘’‚′“”„″", "''''\"\"\"\"")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")


def cleaned(text: str) -> str:
    """The text in one form: full-width letters as plain ones, straight quotes, single blanks and line breaks."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    plain = "".join(sign for sign in plain if sign in "\n\t" or unicodedata.category(sign) != "Cf")
    plain = _TAGS.sub("\n", _answered(plain))
    # Runs of white space would cost the patterns that look past them the square of their length.
    plain = _LINES.sub("\n", _BLANKS.sub(" ", _MARKS.sub(" ", plain)))
    return _SPEAKER.sub("", plain, count=1).strip() if _SPEAKER.match(plain) else plain.strip()


def _answered(text: str) -> str:
    """What stands behind the last thought, and in the last <answer>, where there are such tags."""
    behind = _THOUGHT.split(text)[-1]
    answers = [answer for answer in _ANSWER.findall(behind) if answer.strip()]
    return answers[-1] if answers else behind
