"""A reply as plain text: one turn, without end tokens, Markdown, LaTeX, reasoning and conditions."""

from __future__ import annotations

import re
import unicodedata

_THOUGHT = re.compile(r"<think(?:ing)?>|</think(?:ing)?>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>([^<]*)(?:</answer>|$)", re.IGNORECASE)
_END_TOKEN = re.compile(
    r"<\|(?:im_end|end(?:.?of.?(?:text|turn|sentence))?|eo[tms](?:_id)?)\|>|</s>|<eos>|<end_of_turn>", re.IGNORECASE
)
_HEADER = re.compile(r"(?:<\|\w{1,20}\|>|#{1,6})? ?assistant ?(?:<\|\w{1,20}\|>)? ?[:\n]", re.IGNORECASE)
# Where another turn of a dialogue begins; in the middle of a line the words count with a capital alone.
_TURN = re.compile(
    r"(?<!\w)(?:USER|User|HUMAN|Human|ASSISTANT|Assistant|Instruction|Question(?: \d+)?) ?:"
    r"|^Q ?:|^(?:user|human|assistant|model)$|\[INST\]|<start_of_turn>|<\|(?:im_start|start_header_id|user)\|>",
    re.MULTILINE,
)
# "<A>" for a key; other tags, and tokens such as <|im_start|>, say nothing.
_KEY_TAG = re.compile(r"<([A-Z]|\d{1,2})>")
_CLOSING_TAG = re.compile(r"</([A-Z])>")
_TAGS = re.compile(r"<\|[^|<>]{1,40}\|>|</?[A-Za-z][A-Za-z_]{0,20}>")
_MARKS = re.compile(r"[*_`#$]+|\\[()\[\],;!]|\\(?:(?:text|math)[a-z]{0,2}|left|right|quad)(?![A-Za-z])")
_SIGNS = str.maketrans("‘’‚′“”„″−【】「」『』〔〕《》〈〉", "''''\"\"\"\"-()()()()()()")
_DASHED = re.compile(r"(?<![\w)])–(?=\.?\d)")  # a dash for a minus
# Scripts that are written without blanks: "答えはBです" names B.
UNSPACED = r"\u0e00-\u0e7f\u3001-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_SCRIPTS_MEET = re.compile(rf"(?<=[{UNSPACED}])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[{UNSPACED}])")
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")


def cleaned(text: str) -> str:
    """The text without end tokens, tags, Markdown and reasoning; plain letters and quotes, single blanks and breaks."""
    plain = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    plain = "".join(sign for sign in plain if sign in "\n\t" or unicodedata.category(sign) != "Cf")
    plain = _DASHED.sub("-", plain)
    plain = next((part for part in _END_TOKEN.split(plain) if re.search(r"\w", part)), "")
    plain = _first_turn(_answered(plain))
    closing = set(_CLOSING_TAG.findall(plain))
    plain = _KEY_TAG.sub(lambda match: match[0] if match[1] in closing else f"({match[1]})", plain)
    plain = _SCRIPTS_MEET.sub(" ", _MARKS.sub(" ", _TAGS.sub("\n", plain)))
    # Runs of white space would cost the patterns that look past them the square of their length.
    return _LINES.sub("\n", _BLANKS.sub(" ", plain)).strip()


def _answered(text: str) -> str:
    """What stands behind the last thought, and in the last <answer>, where there are such tags."""
    behind = _THOUGHT.split(text)[-1]
    answers = [answer for answer in _ANSWER.findall(behind) if answer.strip()]
    return answers[-1] if answers else behind


def _first_turn(text: str) -> str:
    """Without the name of who speaks, and without what a model that does not stop lets others say."""
    text = _HEADER.sub("", text.strip(), count=1) if _HEADER.match(text.strip()) else text
    first = re.search(r"\w", text)
    turn = next((match for match in _TURN.finditer(text) if first and match.start() > first.start()), None)
    return text[: turn.start()] if turn else text


_SENTENCES = re.compile(r"(?<=[.!?;])(?=\s)|\n|(?=\b(?:So|Therefore|Thus|Hence)\b)")
_SUPPOSED = re.compile(r"\b(?:would|could|might)\b", re.IGNORECASE)
# "If I had to choose" and "if we watch closely" say how sure the answer is.
_CONDITION = re.compile(
    r"(?<!even )(?<!as )\b(?:if|unless)\b(?!\s+(?:I|we|you|one|asked|forced|anything|not)\b)", re.IGNORECASE
)
# "had he moved", and the like, which say so only beside "would".
_INVERTED = re.compile(
    r"\b(?:had|were|should) (?:he|she|it|they|there|the)\b|\b(?:assuming|supposing|would have)\b", re.IGNORECASE
)


def has_condition(text: str) -> bool:
    """Whether a text says what is the case only if something else is."""
    return bool(_CONDITION.search(text) or _INVERTED.search(text))


def without_conditions(text: str) -> str:
    """A cleaned text without the sentences with a condition."""
    if not has_condition(text):
        return text
    return "\n".join(one for one in _SENTENCES.split(text) if not _is_conditional(one)).strip()


def _is_conditional(sentence: str) -> bool:
    """Whether it begins with "if", or says in its middle what would be."""
    condition = _CONDITION.search(sentence)
    if condition is not None and not sentence[: condition.start()].strip():
        return True
    return bool(_SUPPOSED.search(sentence) and (condition or _INVERTED.search(sentence)))
