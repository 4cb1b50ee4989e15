"""Options named by their keys in a reply: the shapes that count, as patterns for one set of keys."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .cleaning import UNSPACED

# "Answer" and "is" in Spanish, German, French, Portuguese, Italian and Vietnamese.
_NOUN_ABROAD = (
    r"(?:respuesta|opción|solución|correct[ao]|antwort|lösung|richtig|réponse|correcte|resposta|opção|alternativa"
    r"|risposta|opzione|corretta|đáp\s+án|câu\s+trả\s+lời|lựa\s+chọn)"
)
_IS_ABROAD = r"(?:es|sería|ist|lautet|wäre|est|serait|é|seria|è|sarebbe|là)"
# What may follow a key without brackets. "A" and "I" are words too, and numbers count things: with an ordinary word
# behind them they are no keys. Nor are the letters of "A.M.", "D-day" and "C'est", nor the number of "3.5".
_FOLLOWING = (
    r"(?:because|since|as|and|or|but|which|that|for|due|is|would\s+be|if|seems|fits|matches|describes|best|rather"
    rf"|instead|not|does|porque|pois|parce|car|weil|denn|da|perché|poiché|vì|{_IS_ABROAD})\b"
)
_END = rf"(?=\s*(?:$|[;!?()\[\]}}\"/&–—\n{UNSPACED}]|[.:](?!\d)(?!\w\b)|,(?!\d)|'(?!\w)|-(?!\w))|\s+{_FOLLOWING})"
_NOUN = r"(?:answer|choice|option|selection|response|action|solution|guess|conclusion|correct)"
_IS = r"(?:(?<!\w)(?:is|are|was|be|becomes)(?!\w)|[:=→]|->)"
_SURELY = r"(?:(?:also|most|very|likely|probably|clearly|definitely|indeed|actually|still|then|therefore|thus)\s+){0,2}"
# What an option may be called: "Caption B".
_LABEL = (
    r"(?:option|choice|letter|number|answer|caption|sentence|statement|description|video|clip|image|picture"
    rf"|{_NOUN_ABROAD})"
)
_CALLED = rf"(?:(?:the\s+)?{_LABEL}\s+)?"
# "The answer is" in other languages; in those without blanks whatever few signs are no letters may stand between.
_ANSWER = unicodedata.normalize(
    "NFKC",
    rf"\b{_NOUN_ABROAD}\b(?:(?!\b(?:no|não|non|nicht|pas|không)\b)[^.\n:]){{0,40}}?"
    rf"(?:(?<!\w){_IS_ABROAD}(?!\w)|:)\s*(?:(?:la|el|le|a|o|die)\s+)?(?:(?:letra|lettera|lettre|phương\s+án)\s+)?"
    r"|(?:而是|答案|答え|正解|回答|解答|选项|選項|选择?|選擇?|정답|답|คำตอบ)(?:(?!不|非|ไม่)[^.。\nA-Za-z0-9(]){0,20}?",
)
_TAKE = r"(?:choose|chose|pick|picked|select|selected|go\s+with|going\s+with|opt\s+for|answer\s+with)"
_SO = (
    r"(?:(?:so|thus|therefore|hence|consequently)\b,?|(?:no|wait|actually)\s*[,:–—-])\s+"
    r"(?:(?:it|this|that|the\s+\w+)(?:'s|\s+is)\s+)?"
)
_GOOD = (
    r"(?:(?:is|would\s+be|seems|seems\s+to\s+be)\s+(?:the\s+)?"
    r"(?:correct|right|best|true|most\s+likely|most\s+accurate|most\s+appropriate|answer|my\s+answer)"
    r"|(?:best\s+)?(?:fits|matches|describes)\b)"
)
_BAD = (
    r"(?:(?:is|are|was|would\s+be|seems)\s*(?:also\s+|clearly\s+)?(?:not\b|n't\b|wrong|incorrect|false|unlikely)"
    r"|(?:does|do|did)\s*(?:not\b|n't\b)|can(?:not|'t)\b|[?:–—-]\s*(?:no|false|wrong|incorrect)\b"
    r"|(?:では|じゃ)[なあ]|[가이]\s*아[니닙닌]|不[是对正]|是?错"
    rf"|{_IS_ABROAD}\s+(?:incorrect|fals|faux|fauss|errad|sbagliat|sai\b|nicht\b|pas\b|no\b))"
)
_NOT = unicodedata.normalize(
    "NFKC",
    r"(?:\b(?:can)?not|n't|\bneither|\bnor|\bnever|\bnone\s+of|\bexcept|\brather\s+than|\binstead\s+of|\bthan"
    r"|\bnicht|\bpas|\b(?:no\s+es|não\s+é|non\s+è)(?:\s+(?:la|a))?|\bkhông\s+phải(?:\s+là)?|不是|ไม่ใช่)",
)
_OF = r"(?:(?:be|is|the|both|either|options?|choices?|letters?|numbers?|answers?)\s+){0,3}"
_AND = (
    r"(?:[,;、/&|+]|[-–](?=\w)|(?:and/or|and|or|nor|as\s+well\s+as|y|o|u|und|oder|et|ou|e|và|hoặc)\b"
    r"|和|或|と|か|또는|와|과|และ|หรือ)\s*(?:(?:and|or|nor)\s+)?"
)
# Numbers as keys: neither "1.5", "2,500", "1:30", "1/2", "-1", "50%" nor "3人" (three people) holds one.
_UNCOUNTED, _WHOLE = r"(?<!\d[.,:/])(?<![-$€£])", r"(?![.,:/]\d)(?! ?[%人名個个回分秒年月日時时명개초분회])"
_BOTH_BAD = r"(?:are|were|do)\s*(?:both\s+|all\s+)?(?:not\b|n't\b|wrong|incorrect|false|unlikely)"


@dataclass(frozen=True)
class KeyPatterns:
    """The patterns for one set of keys; the one group that takes part in a match is the key (of `head`, "key" is)."""

    bare: re.Pattern[str]  # the whole reply is a key
    line: re.Pattern[str]  # a line is
    head: re.Pattern[str]  # the reply begins with a key, as a label ("3. ...") or before an ordinary word
    item: re.Pattern[str]  # a label anywhere, as in a list of options
    one: re.Pattern[str]  # a key as a word
    before: re.Pattern[str]  # a key, as it stands before an option's text
    declared: tuple[re.Pattern[str], ...]  # a key is said to be the answer
    named: tuple[re.Pattern[str], ...]  # a key is named, in a way that only keys are
    another: re.Pattern[str]  # right behind a key: another one, so that several are named at once
    denied: re.Pattern[str]  # keys with what denies them before
    wrong: re.Pattern[str]  # right behind a key: it is said to be wrong


@functools.lru_cache(maxsize=1024)
def patterns(keys: tuple[str, ...]) -> KeyPatterns:
    """The patterns for these keys; a key without a letter or digit is never found."""
    known = sorted((key for key in keys if re.search(r"\w", key)), key=len, reverse=True)
    one = "|".join(rf"{_UNCOUNTED}{key}{_WHOLE}" if key.isdecimal() else re.escape(key) for key in known) or r"(?!)"
    apart = r"(?<!\w)(?<!\w')"
    free = rf"{apart}(?P<key>{one})(?!\w){_END}"
    closed = rf"[(\[{{]\s*(?P<closed>(?i:{one}))\s*[)\]}}]"
    half = rf"{apart}(?P<half>{one})\)"
    # In lower case a key is taken only where nothing but a stop follows: "a" is a word too.
    small = rf"{apart}(?P<small>(?i:{one}))(?=[\s\"']*(?:[.!)]?\s*$|[.!]\s))"
    said = rf"{_NOUN}\b[^.\n]{{0,60}}?{_IS}\s*[\"']?\s*{_SURELY}|\b{_TAKE}\s+|\b{_SO}|{_ANSWER}"
    declared = [rf"(?i:(?:{said}){_CALLED})(?:{closed}|[(\[{{]?\s*(?:{free}|(?i:{half})|{small}))"]
    declared += [rf"(?i:\\boxed\s*)\{{[\s{{(]*(?P<key>{one})(?!\w)", rf"(?:{free}|{closed})(?i:\s+{_GOOD})"]
    named = [closed, half, rf"(?i:\b(?:option|choice)\s+)(?P<key>{one})(?!\w)", rf"(?i:\b{_LABEL}\s+|[(\[{{]\s*){free}"]
    named += [rf"^\W*{free}", rf"^\W*(?P<key>(?i:{one}))[.):]\s"]
    named += [rf"(?i:(?:\b(?:is|be|but|say|think|guess|believe|it's|that's)\s+{_SURELY}|[,:;.]\s+)){free}"]
    item = rf"[(\[]?(?<!\w)(?:{one})(?!\w)[)\]]?"
    listed = rf"\s*(?i:{_AND}{_CALLED}){item}"
    signs = r"[^\w\n]*"
    beside = rf"(?:\s*(?:\([^()\n]{{0,80}}\)\s*)?(?i:{_AND}{_CALLED})[(\[]?| ?[(\[])"
    return KeyPatterns(
        re.compile(rf"\W*(?i:(?:{_NOUN}|{_LABEL})\W*)?(?P<key>(?i:{one}))(?:\W+(?P=key)(?!\w))*\W*"),
        re.compile(rf"^{signs}(?i:{_LABEL}\b{signs})?(?P<key>{one}){signs}$", re.MULTILINE),
        re.compile(
            rf"\W*(?P<key>{one}|(?i:{one})(?=[.):]\s))(?!\w)(?P<label>[)\]]?\s*[.):,;–—-](?!\d)|[)\]])?\W*(?=\w)"
        ),
        re.compile(rf"(?<!\S)[(\[]?(?P<key>{one})[.):\]](?!\S)"),
        re.compile(rf"(?<!\w)(?P<key>{one})(?!\w)"),
        re.compile(rf"[(\[{{]?(?<!\w)(?P<key>{one})(?!\w)(?P<label>\s?[)\]}}]?\s?[.:,;=(\[–—-]?)[\s\"'(\[]{{0,4}}"),
        tuple(map(re.compile, declared)),
        tuple(map(re.compile, named)),
        re.compile(rf"[)\]]?{beside}(?P<key>{one})(?!\w){_END}"),
        re.compile(
            rf"(?i:{_NOT}\s*{_OF}){item}(?:{listed}(?!\s+(?i:{_GOOD})))*|{item}(?:{listed}){{1,12}}\s*(?i:{_BOTH_BAD})"
        ),
        re.compile(rf"[)\]]?\s*(?<!\w(?=\w))(?i:{_BAD})"),
    )


@dataclass(frozen=True)
class KeyMention:
    """An option named by its key, which stands in the reply from `start` to `end`."""

    key: str
    start: int
    end: int
    declared: bool  # it is said to be the answer, not only named
    label: bool = False  # it stands at the reply's beginning with a stop or bracket, as in "3. stirring"


def bare_key(reply: str, keys: Iterable[str]) -> str | None:
    """The key that a whole reply is, in brackets, with a stop or after "Answer:"."""
    known = tuple(keys)
    match = patterns(known).bare.fullmatch(reply)
    return _resolved(match["key"], known) if match else None


def _resolved(text: str, keys: tuple[str, ...]) -> str | None:
    """The key that a text in any case means; None where two differ in case alone."""
    if text in keys:
        return text
    alike = [key for key in keys if key.lower() == text.lower()]
    return alike[0] if len(alike) == 1 else None


def leading_key(reply: str, keys: Iterable[str]) -> KeyMention | None:
    """The key that a reply begins with, before further words; `label` says whether a stop or bracket is behind it."""
    known = tuple(keys)
    match = patterns(known).head.match(reply)
    key = _resolved(match["key"], known) if match else None
    if match is None or key is None:
        return None
    return KeyMention(key, match.start("key"), match.end("key"), False, match["label"] is not None)


def is_option_list(reply: str, keys: Iterable[str]) -> bool:
    """Whether a reply is a list: labels of several keys stand in it ("1. He enters. 2. He sits.")."""
    return _one_key(patterns(tuple(keys)).item, reply) is False


def key_mentions(reply: str, keys: Iterable[str], labels: Collection[int] = ()) -> list[KeyMention]:
    """Every option that a reply names by its key and does not deny, in order of place.

    What stands alone in its line declares, but for the keys at these places, `labels` of a text.
    """
    known = tuple(keys)
    lower = reply.lower()
    if not any(key.lower() in lower for key in known):
        return []
    compiled = patterns(known)
    denied = denied_places(reply, known)
    found: dict[int, KeyMention] = {}
    for one in _all_mentions(reply, compiled, known, labels):
        if one.start not in found and one.start not in denied and not compiled.wrong.match(reply, one.end):
            found[one.start] = one
    return [found[start] for start in sorted(found)]


def _all_mentions(
    reply: str, compiled: KeyPatterns, keys: tuple[str, ...], labels: Collection[int]
) -> Iterator[KeyMention]:
    # A key in a line of its own declares, unless several have such lines. A label alone means nothing ("vitamin C.").
    lines = [match for match in compiled.line.finditer(reply) if match.start("key") not in labels]
    if len({match["key"] for match in lines}) == 1:
        yield from (KeyMention(match["key"], *match.span("key"), True) for match in lines)
    naming = (compiled.line,) if _one_key(compiled.item, reply) else (compiled.line, compiled.item)
    for declared, group in ((True, compiled.declared), (False, (*compiled.named, *naming))):
        for pattern in group:
            for match in pattern.finditer(reply):
                shape = match.lastgroup or "key"
                key = _resolved(match[shape], keys)
                if key is not None:
                    yield KeyMention(key, match.start(shape), match.end(shape), declared)


def _one_key(pattern: re.Pattern[str], reply: str) -> bool | None:
    """Whether one key alone stands in such a way; None: none does."""
    keys = {match["key"] for match in pattern.finditer(reply)}
    return len(keys) == 1 if keys else None


def denied_places(reply: str, keys: Iterable[str]) -> set[int]:
    """Where keys begin that are denied: those of "neither A nor B"."""
    compiled = patterns(tuple(keys))
    spans = [match.span() for match in compiled.denied.finditer(reply)]
    return {one.start("key") for span in spans for one in compiled.one.finditer(reply, *span)}


def names_another(reply: str, one: KeyMention, keys: Iterable[str]) -> bool:
    """Whether another option stands right beside: "A and C", "B or D"."""
    compiled = patterns(tuple(keys))
    match = compiled.another.match(reply, one.end)
    return match is not None and match["key"] != one.key and not compiled.wrong.match(reply, match.end("key"))
