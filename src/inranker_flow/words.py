"""Words of all scripts: the one place that says where a word begins and ends, and what language its stems are of.

A word is two or more letters, digits and marks in a row, in lower case and in Unicode's compatible composed form (NFKC).
So a word is one term whether it was typed composed or decomposed, full-width or not, with or without what only guides
reading: zero-width joiners, soft hyphens, Arabic vowel signs and tatweel, Hebrew points. Digits of all scripts are 0 to 9.

Chinese, Japanese and Korean become overlapping pairs of letters, as Lucene's CJKAnalyzer makes them; a letter that stands
alone is a word. Thai, Lao, Khmer and Burmese become pairs of letters with their marks (Lucene's ThaiAnalyzer looks words
up in a dictionary). Plain ASCII is split as it was before there were other scripts, to the last bit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from inranker_flow.errors import UserError

# Letters of scripts that are written without blanks between words, for the inside of a regular expression's class.
_HAN_KANA = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_HAN_KANA += "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7a3\ud7b0-\ud7ff\uffa0-\uffdc"
_ASIAN = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f"
_ASIAN += "\u1780-\u17d3\u17d7\u17dc\u17dd\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"
#: Letters of a word, on an average: of Chinese and Japanese, and (with their marks) of Thai, Lao, Khmer and Burmese.
_HAN_WORD, _ASIAN_WORD = 2, 3

#: Words of Latin, Greek, Cyrillic and the like.
_PLAIN = re.compile(r"(?u)\b\w\w+\b").findall
#: Scripts of which few texts are; Chinese and emoji lie elsewhere.
_RARE = re.compile("[\U00010300-\U0001efff]").search


class _Forms:
    """The tables that take apart a text that is not ASCII: made for the first such text, as that takes a moment.

    Not ``every``: without the marks and digits beyond U+FFFF, as `re` is slow with a class that has many of these.
    """

    def __init__(self, every: bool) -> None:
        letters = [chr(code) for code in (*range(0x80, 0x1F000 if every else 0x10000), *range(0xE0000, 0xE0200))]
        kinds = list(map(unicodedata.category, letters))
        marks = _class(letter for letter, kind in zip(letters, kinds, strict=True) if kind in ("Mn", "Mc"))
        #: What only guides reading is left out, and digits are written alike.
        self.replaced = {
            letter: str(unicodedata.digit(letter)) if kind == "Nd" else ""
            for letter, kind in zip(letters, kinds, strict=True)
            if kind in ("Cf", "Nd") or (kind == "Mn" and _guides(letter)) or letter == "\u0640"
        } | {"\u200b": " "}  # the zero-width space is one all the same
        left_out = _class(self.replaced)
        # Khmer's coeng and Burmese' virama put the next letter below; Thai's and Lao's am is a mark and a letter.
        cluster = f"[{_ASIAN}](?:[\u1039\u17d2][{_ASIAN}]|[{marks}\u0e33\u0eb3])*"
        self.replace = re.compile(f"[{left_out}]").subn
        #: Whether there is what the plain form of a word does not know; lower case takes the last letter apart.
        self.other = re.compile(f"[{left_out}{marks}{_HAN_KANA}{_HANGUL}{_ASIAN}\u0130]").search
        self.runs = re.compile(rf"[\w{marks}]+").findall
        self.unspaced = re.compile(f"[{_HAN_KANA}{_HANGUL}{_ASIAN}]").search
        #: Korean has blanks between its words, so it is not among these.
        self.blankless = re.compile(f"[{_HAN_KANA}{_ASIAN}]").search
        self.cluster = re.compile(cluster).findall
        self.parts = re.compile(
            f"([{_HAN_KANA}{_HANGUL}]+)|((?:{cluster})+)|([^{_HAN_KANA}{_HANGUL}{_ASIAN}]+)"
        ).findall
        #: A letter of Chinese and Japanese, of Thai and the like, and whatever else stands without a blank.
        self.units = re.compile(f"([{_HAN_KANA}])|({cluster})|[^\\s{_HAN_KANA}{_ASIAN}]+").finditer


@cache
def _made(every: bool) -> _Forms:
    return _Forms(every)


def _forms(text: str) -> _Forms:
    return _made(_RARE(text) is not None)


def _guides(mark: str) -> bool:
    """Return Arabic vowel signs, Hebrew points, the joiner of graphemes, selectors of a glyph."""
    return (
        "\u064b" <= mark <= "\u0652"
        or "\u0591" <= mark <= "\u05c7"
        or mark in "\u034f\u0670"
        or "\ufe00" <= mark <= "\ufe0f"
        or mark >= "\U000e0100"
    )


def _class(letters: Iterable[str]) -> str:
    """Return the inside of a class for these letters, as ranges."""
    ranges: list[list[int]] = []
    for code in sorted(map(ord, letters)):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def terms(text: str) -> list[str]:
    """Return the words of a text as a search engine compares them, before stop words and stems."""
    if text.isascii():
        return _PLAIN(text.lower())
    if not unicodedata.is_normalized("NFKC", text):
        # Else "Windows™" would become "windowstm".
        text = unicodedata.normalize("NFKC", text.replace("™", " ").replace("℠", " "))
    forms = _forms(text)
    if not forms.other(text):
        return _PLAIN(text.lower())
    text, changes = forms.replace(lambda each: forms.replaced[each[0]], text)
    if changes:
        text = unicodedata.normalize("NFKC", text)
    found: list[str] = []
    for run in forms.runs(text.lower().replace("i\u0307", "i")):
        if not forms.unspaced(run):
            if len(run) > 1:
                found.append(run)
            continue
        for letters, clusters, other in forms.parts(run):
            if other:
                # One letter too: the C of a language.
                found += [other] if other[0].isalnum() else []
                continue
            each = letters or forms.cluster(clusters)
            found += [one + two for one, two in pairwise(each)] or each[:1]
    return found


def count(text: str) -> int:
    """Return about the number of words that a person would count: the parts between blanks.

    Two letters of Chinese or Japanese count as a word, and three of Thai, Lao, Khmer or Burmese with their marks.
    """
    if text.isascii() or not _forms(text).blankless(text):
        return len(text.split())
    return len(pieces(text))


def pieces(text: str) -> list[str]:
    """Return the text cut where its words begin, as :func:`count` counts them; joined by nothing they are the text.

    What stands between words belongs to the one before it.
    """
    starts: list[int] = []
    end = held = size = 0
    for unit in _forms(text).units(text):
        wanted = _HAN_WORD if unit[1] else _ASIAN_WORD if unit[2] else 0
        touches = unit.start() == end and starts
        # A full word ends; punctuation that touches a word of letters belongs to it.
        if touches and wanted == size and held < size:
            held += 1
        elif not (touches and not wanted and not _is_word(unit[0])):
            starts.append(unit.start())
            size, held = wanted, 1
        end = unit.end()
    return [text[first:last] for first, last in pairwise([0, *starts[1:], len(text)])] if starts else []


def _is_word(text: str) -> bool:
    return any(map(str.isalnum, text))


def split(text: str) -> tuple[list[str], str]:
    """Return the words of a text as :func:`count` counts them, and what joins them: a blank, or nothing."""
    return (text.split(), " ") if has_blanks(text) else (pieces(text), "")


def beginning(text: str, words: int) -> str:
    """Return the first ``words`` words of a text."""
    found, between = split(text)
    return between.join(found[:words]).rstrip()


def spaced(text: str) -> str:
    """Return the text with blanks around every letter of a script that has none, so that words can be looked for in it."""
    if text.isascii() or not _forms(text).blankless(text):
        return text
    return " ".join(unit[0] for unit in _forms(text).units(text))


def has_blanks(text: str) -> bool:
    """Return whether a text is without letters of the scripts that have no blanks between words."""
    return text.isascii() or not _forms(text).blankless(text)


# --- languages --------------------------------------------------------------------------------------------------------


#: Punctuation that changes what a query asks for: c# is not c, 50% not 50.
_MEANT = "#%&@*"


class _Blanks(dict[int, int | str]):
    """For `str.translate`: punctuation, blanks and control characters become blanks; found out once for each."""

    def __missing__(self, code: int) -> int | str:
        letter = chr(code)
        self[code] = " " if unicodedata.category(letter)[0] in "PZC" and letter not in _MEANT else code
        return self[code]


class _Joiners(dict[int, int | str]):
    """For `str.translate`: what only guides reading (joiners within Persian and Indian words, soft hyphens) is left out."""

    def __missing__(self, code: int) -> int | str:
        letter = chr(code)
        # The zero-width space is one all the same.
        self[code] = "" if unicodedata.category(letter) == "Cf" and letter != "\u200b" else code
        return self[code]


_BLANKS, _JOINERS = _Blanks(), _Joiners()


def normal(text: str) -> str:
    """Return lower case in Unicode's compatible form, without punctuation, words separated by one blank."""
    if not text.isascii():
        text = text.translate(_JOINERS)
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_BLANKS).split()) or folded.strip()


@dataclass(frozen=True)
class Language:
    """``stemmer``: Snowball's name, "" where it has none; ``stopwords``: the name of bm25s' list, "" where it has none."""

    name: str
    stemmer: str = ""
    stopwords: str = ""

    @property
    def code(self) -> str:
        """Its ISO 639-1 code; "" for no language."""
        return _CODES.get(self.name, "")


#: Name -> ISO 639-1.
_CODES = {
    "arabic": "ar", "armenian": "hy", "basque": "eu", "bengali": "bn", "bulgarian": "bg", "burmese": "my", "catalan": "ca",
    "chinese": "zh", "croatian": "hr", "czech": "cs", "danish": "da", "dutch": "nl", "english": "en", "esperanto": "eo",
    "estonian": "et", "finnish": "fi", "french": "fr", "georgian": "ka", "german": "de", "greek": "el", "gujarati": "gu",
    "hebrew": "he", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it", "japanese": "ja",
    "kannada": "kn", "khmer": "km", "korean": "ko", "lao": "lo", "latvian": "lv", "lithuanian": "lt", "malay": "ms",
    "malayalam": "ml", "marathi": "mr", "nepali": "ne", "norwegian": "no", "persian": "fa", "polish": "pl",
    "portuguese": "pt", "punjabi": "pa", "romanian": "ro", "russian": "ru", "serbian": "sr", "sesotho": "st", "slovak": "sk",
    "slovenian": "sl", "spanish": "es", "swahili": "sw", "swedish": "sv", "tamil": "ta", "telugu": "te", "thai": "th",
    "turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi", "yiddish": "yi",
}  # fmt: skip
#: Other codes of the same: Norwegian's two ways of writing, Hebrew's and Indonesian's old ones, Chinese as the hub says it.
_OTHER_CODES = {"nb": "no", "nn": "no", "iw": "he", "in": "id", "cmn": "zh"}
#: Of these, the ones that Snowball has no stemmer for, and the ones that bm25s has stop words of.
_NOT_STEMMED = (
    *(
        "bengali",
        "bulgarian",
        "burmese",
        "chinese",
        "croatian",
        "georgian",
        "gujarati",
        "hebrew",
        "japanese",
        "kannada",
    ),
    *(
        "khmer",
        "korean",
        "lao",
        "latvian",
        "malay",
        "malayalam",
        "marathi",
        "punjabi",
        "slovak",
        "slovenian",
        "swahili",
    ),
    *("telugu", "thai", "ukrainian", "urdu", "vietnamese"),
)
_STOPPED = (
    *("chinese", "danish", "dutch", "english", "french", "german", "italian", "korean", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish", "turkish"),
)
#: No language at all: words as they are.
NONE = "none"


#: What is said of a language that is not known.
UNKNOWN = (
    f"is no language that is known here; give one of {', '.join(_CODES)}, its ISO 639-1 code, 'none' (words as they are), or "
    "nothing: then each word's script decides"
)


def language(name: str) -> Language:
    """Return the language of that name or ISO 639-1 code; raises :class:`UserError` for one that is not known."""
    asked = name.strip().lower()
    code = asked.split("-")[0].split("_")[0]
    known = {code: each for each, code in _CODES.items()}.get(_OTHER_CODES.get(code, code), asked)
    if known == NONE:
        return Language(NONE)
    if known not in _CODES:
        raise UserError(f"language: {name!r} {UNKNOWN}", code="language-unknown")
    return Language(known, "" if known in _NOT_STEMMED else known, known if known in _STOPPED else "")


@dataclass(frozen=True)
class _Script:
    """Letters from ``first`` to ``last``; ``language``: whose stems its words have where nothing else is said."""

    first: str
    last: str
    name: str


_SCRIPTS = (
    _Script("\u0370", "\u03ff", "greek"),
    _Script("\u1f00", "\u1fff", "greek"),
    _Script("\u0400", "\u052f", "cyrillic"),
    _Script("\u0531", "\u058f", "armenian"),
    _Script("\u0591", "\u05f4", "hebrew"),
    _Script("\u0620", "\u06ff", "arabic"),
    _Script("\u0750", "\u077f", "arabic"),
    _Script("\u08a0", "\u08ff", "arabic"),
    _Script("\u0900", "\u097f", "devanagari"),
    _Script("\u0b80", "\u0bff", "tamil"),
)
#: Script -> the language whose words it is taken for.
_USUAL = {
    "greek": "greek", "cyrillic": "russian", "armenian": "armenian", "arabic": "arabic", "devanagari": "hindi",
    "tamil": "tamil",
}  # fmt: skip
#: Stemmer -> its script, where that is not Latin.
_SCRIPT_OF = {
    "russian": "cyrillic", "serbian": "cyrillic", "greek": "greek", "armenian": "armenian", "arabic": "arabic",
    "persian": "arabic", "hindi": "devanagari", "nepali": "devanagari", "tamil": "tamil", "yiddish": "hebrew",
}  # fmt: skip
#: Letters that the usual language of their script does not have: Persian's and Urdu's, Ukrainian's, Serbian's, ...
_FOREIGN = re.compile("[پچژگکیےٹڈڑںہھۀۓەۆێڕڵґєіїўђјљњћџѓќѕәғқңөұүһ]").search


def script(word: str) -> str:
    """Return the script of a word's first letter, where stems depend on it; "" for Latin and all others."""
    first = word[:1]
    return next((each.name for each in _SCRIPTS if each.first <= first <= each.last), "")


@cache
def _alphabet(letter: str) -> str:
    """Return the script of a letter as Unicode's names have it: latin, cyrillic, cjk, hiragana, ..."""
    return unicodedata.name(letter, "other").partition(" ")[0].lower()


def main_script(text: str) -> str:
    """Return the script of most letters of a text; "none" where it has no letter."""
    found: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        name = "latin" if letter.isascii() else _alphabet(letter)
        found[name] = found.get(name, 0) + 1
    return max(found, key=lambda name: found[name], default="none")


def usual_language(word: str) -> str:
    """Return whose stems a word has by its script alone; "" where that does not tell."""
    return "" if _FOREIGN(word) else _USUAL.get(script(word), "")


def is_written_in(word: str, stemmer: str) -> bool:
    """Return whether a word is of the script of a Snowball stemmer; Latin counts as everybody's."""
    found = script(word)
    return not found or found == _SCRIPT_OF.get(stemmer, "")
