"""Words of all scripts: against Lucene's own tokens, the form that ASCII always had, and small collections in ten languages."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from inranker_flow import words
from inranker_flow.config.parsing import parse
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.errors import UserError
from inranker_flow.retrieval.analyser import Analyser, in_language
from inranker_flow.retrieval.bm25 import BM25
from tests import languages

LUCENE = json.loads((Path(__file__).parents[1] / "lucene_tokens.json").read_text(encoding="utf-8"))


def found_first(sample, config):
    """How many queries have their passage, and no other, at the top."""
    index = BM25.build([([str(i) for i in range(len(sample.passages))], sample.passages)], config)
    found = [index.search(query, 2) for query in sample.queries]
    return sum(
        ids[:1].tolist() == [str(i)] and (len(scores) == 1 or scores[0] > scores[1])
        for i, (ids, scores) in enumerate(found)
    )


@pytest.mark.parametrize("language", languages.NAMES)
@pytest.mark.parametrize("forms", [("NFC", "NFC"), ("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFKD")])
def test_each_question_finds_its_passage(language, forms):
    sample = languages.sample(language, *forms)
    told = found_first(sample, in_language(RetrieveConfig(), language))
    assert told == len(sample.queries)
    if language != "portuguese":  # Latin words have the settings' stemmer, which is English's
        assert found_first(sample, RetrieveConfig()) == len(sample.queries), "the script alone tells it"


def test_full_width_and_half_width_are_one():
    index = BM25.build([(["a", "b"], ["ＡＢＣ社のガス１２３", "別の会社"])], RetrieveConfig())
    for query in ("ABC社", "abc", "ｶﾞｽ", "123"):
        assert index.search(query, 5)[0].tolist() == ["a"], query


# What differs from Lucene knowingly: words of one letter are none where words have blanks, apostrophes part words, zero-width
# joiners and compositions do not count, and 々 belongs to the Chinese letters.
KNOWN = {
    "時々、人々は": ["時々", "人々", "々は"],
    "क्‍षत्रिय और ज़मीन": ["क्षत्रिय", "और", "ज़मीन"],
    "l'été": ["été"],
    "e\u0301te\u0301 sa\u0303o": ["été", "são"],
    "İstanbul'da": ["istanbul", "da"],
}


@pytest.mark.parametrize("row", [row for row in LUCENE if row["analyser"].startswith(("standard", "cjk"))])
def test_words_are_lucenes(row):
    own = [word for word in words.terms(row["text"]) if word != "a"]  # CJKAnalyzer has English stop words
    theirs = [word for word in row["tokens"] if word != "a"]
    assert own == [unicodedata.normalize("NFKC", word) for word in KNOWN.get(row["text"], theirs)], (
        "or write down why not"
    )


@pytest.mark.parametrize(
    ("language", "analyser"), [("hindi", "hi.Hindi"), ("arabic", "ar.Arabic"), ("portuguese", "pt.Portuguese")]
)
def test_texts_share_words_where_lucene_finds_that_they_do(language, analyser):
    """Stems are Snowball's and stop words bm25s', which Lucene's analysers have others of: what counts is what matches."""
    rows = [row for row in LUCENE if row["analyser"] == f"{analyser}Analyzer"]
    flat, counts = Analyser(in_language(RetrieveConfig(), language))([row["text"] for row in rows])
    own = [set(part.tolist()) for part in np.split(flat, np.cumsum(counts)[:-1])]
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    theirs = [len(set(rows[i]["tokens"]) & set(rows[j]["tokens"])) for i, j in pairs]
    assert len(rows) == 12 and all(own[i] & own[j] for (i, j), shared in zip(pairs, theirs, strict=True) if shared > 1)
    assert np.corrcoef(theirs, [len(own[i] & own[j]) for i, j in pairs])[0, 1] > 0.85


def test_plain_text_is_split_as_it_always_was():
    before = re.compile(r"(?u)\b\w\w+\b").findall
    generator = random.Random(4)
    ascii_only = "".join(map(chr, range(128)))
    european = (
        ascii_only
        + "àéîöüßçñøåæœąęłżščřžőűğışäÀÉÎÖÜÇŁŠĞŞабвгдежзийклмнопрстуфхцчшщъыьэюяёАБВ αβγδεζηθ «»“”„’–—€…".replace(
            "…", ""
        )
    )
    for letters in (ascii_only, european):
        for _ in range(3000):
            text = "".join(generator.choices(letters, k=generator.randrange(80)))
            assert words.terms(text) == before(text.lower())
    assert words.terms("Windows™ it’s m² a_b x") == ["windows", "it", "m2", "a_b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("मशीन लर्निंग कृत्रिम बुद्धिमत्ता", ["मशीन", "लर्निंग", "कृत्रिम", "बुद्धिमत्ता"]),
        ("বাংলা ভাষায় কৃত্রিম", ["বাংলা", unicodedata.normalize("NFKC", "ভাষায়"), "কৃত্রিম"]),
        ("مُدَرِّسٌ كـتـاب", ["مدرس", "كتاب"]),
        ("٢٠٢٣ १२ ๑๒", ["2023", "12", "12"]),
        ("שָׁלוֹם", ["שלום"]),
        ("می‌خواهم", ["میخواهم"]),
        ("inter\u00adnational", ["international"]),
        ("กา\u200bแฟ", ["กา", "แฟ"]),
        ("维生素C和B12", ["维生", "生素", "c", "和", "b12"]),
        ("ភាសា", ["ភាសា"]),
        ("ខ្ញុំស្រឡាញ់", ["ខ្ញុំស្រ", "ស្រឡា", "ឡាញ់"]),
        ("မြန်မာ", ["မြန်", "န်မာ"]),
        ("ພາສາລາວ", ["ພາ", "າສ", "ສາ", "າລ", "ລາ", "າວ"]),
        ("😀 👍🏽 ❤️ 1️⃣", []),
        ("", []),
    ],
)
def test_words_of_other_scripts(text, expected):
    assert words.terms(text) == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("  ", 0), ("where is  the moon?", 4), ("onde está a lua", 4), ("a - b", 3),
        ("河流在哪里", 3), ("月亮", 1), ("我", 1), ("什么是 GPT 模型", 4), ("東京タワーはどこにありますか", 7),
        ("서울 날씨 어때", 3), ("मशीन लर्निंग क्या है", 4), ("ما هو القمر", 3), ("แม่น้ำอยู่ที่ไหน", 3), ("ﾃﾞｰﾀ", 2),
    ],
)  # fmt: skip
def test_words_are_counted_as_people_would(text, count):
    assert words.count(text) == count
    found, between = words.split(text)
    assert len(found) == count and between.join(found).split() == text.split()
    assert words.beginning(text, 2).split() == between.join(found[:2]).split()


def test_cut_texts_are_the_text():
    generator = random.Random(5)
    letters = "ab ,.「」。月亮星タワー 서울ภาษา้ျမ်မြန́ \n"
    for _ in range(3000):
        text = "".join(generator.choices(letters, k=generator.randrange(40)))
        assert "".join(words.pieces(text)) == (text if text.strip() else "")
        assert words.count(text) >= bool(text.strip())
        assert words.spaced(text).replace(" ", "").split() == ["".join(text.split())] or not text.strip()


# --- languages --------------------------------------------------------------------------------------------------------


def test_every_language_has_the_stemmer_and_the_stop_words_that_there_are():
    import Stemmer

    assert {words.language(each).stemmer for each in words._CODES} - {""} == set(Stemmer.algorithms()) - {
        "porter",
        "dutch_porter",
    }
    for name, code in words._CODES.items():
        config = in_language(RetrieveConfig(), name)
        assert (
            in_language(RetrieveConfig(), code.upper()) == config == in_language(RetrieveConfig(), f" {name.title()}")
        )
        Analyser(config)
    assert words.language("pt-BR").name == words.language("pt_PT").name == "portuguese"
    assert words.language("zh-Hant").name == "chinese"
    assert in_language(RetrieveConfig(), "") == RetrieveConfig()
    assert in_language(RetrieveConfig(), "none") == RetrieveConfig(stemmer="", stopwords="")


@pytest.mark.parametrize("name", ["klingon", "english ", "xx", "portugese"])
def test_a_language_that_is_not_known(name):
    section = {"uri": "u", "name": "brazil", "language": name}
    if name.strip() in words._CODES:
        assert parse(CorpusConfig, section, "source").language == name
        return
    with pytest.raises(
        UserError, match=rf"^source.language: '{name}' is no language that is known here; .*ISO 639-1"
    ) as refused:
        parse(CorpusConfig, section, "source")
    assert "\n" not in str(refused.value)


def terms(text, **settings):
    analyser = Analyser(RetrieveConfig(**settings))
    analyser([text])
    return analyser.terms


def test_a_words_script_decides_its_stem():
    assert terms("running городами शहरों المدن πόλεις") == ["run", "город", "शहर", "مدن", "πολ"]
    assert terms("и город") == ["город"], "and its stop words"
    assert terms("running городами", stemmer="russian", stopwords="russian") == ["running", "город"]
    assert terms("running городами", stemmer="") == ["running", "городами"]
    # What the script is mostly written for does not have these letters.
    assert terms("کتابهای містами") == ["کتابهای", "містами"]
    assert terms("کتابهای", stemmer="persian", stopwords="") != ["کتابهای"]
    assert terms("शहरों", stemmer="nepali", stopwords="") != terms("शहरों", stemmer="hindi", stopwords="")


def test_a_collection_with_a_language_is_another_and_one_without_what_it_was():
    plain, told = CorpusConfig("u", "a"), CorpusConfig("u", "a", language="hindi")
    assert "language" not in plain.content and told.content["language"] == "hindi"


@pytest.mark.parametrize(
    ("code", "name"), [("nb", "norwegian"), ("nn-NO", "norwegian"), ("iw", "hebrew"), ("cmn", "chinese")]
)
def test_other_codes_of_a_language(code: str, name: str) -> None:
    assert words.language(code) == words.language(name)
