"""The backend `crop`: sentences and spans of documents as queries, without a model."""

from __future__ import annotations

import re
from random import Random

import pytest

from inranker_flow import profiles
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.commands.plan import show
from inranker_flow.config.sections import CorpusConfig, GenerateConfig
from inranker_flow.corpora.sentences import sentences
from inranker_flow.generation.backends import load_backend
from inranker_flow.generation.prompts import NONE
from inranker_flow.planning.planner import make_plan
from inranker_flow.preflight.generator import check_generator
from inranker_flow.settings.pin import pin
from inranker_flow.stages.generate_queries import generate_queries, help_generate
from inranker_flow.words import pieces
from pipelines.release import refuse_local
from tests import languages, models
from tests.models import read_queries as read
from tests.planning import by_size_alone
from tests.refusals import refuses

#: Four sentences each, of which every one is another's.
DOCUMENTS = {
    f"d{n}": " ".join(f"Stone {n} is the {part} of {n + 3} gardens." for part in ("first", "second", "third", "last"))
    for n in range(25)
}


def config(**changes) -> GenerateConfig:
    return GenerateConfig(**{"backend": "crop", "seed": 3, "shard_documents": 8, **changes})


def crops(document: str, **changes) -> list[str]:
    return load_backend(config(**changes), NONE).generate([document], 0, lambda count: None).texts[0]


def by_document(folder):
    found: dict[str, list[str]] = {}
    for row in read(folder):
        found.setdefault(row["source_doc_id"], []).append(row["text"])
    return found


@pytest.fixture
def collection(tmp_path):
    return models.collection(tmp_path / "collection", DOCUMENTS, {"t1": ("test", "where is the moon")})


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expected",
    [
        ["The moon is far.", "Is it made of stone?", "Nobody has ever asked!"],
        [
            "Dr. J. Smith of the U.S. found 3.5 g of it, e.g. in milk.",
            'He said: "This is all."',
            "Others found less of it.",
        ],
        ["it grew fast in the plasma .", "levels of glucose fell again .", "no change was seen"],
        ["The iPhone is sold by approx. ten shops there.", "it costs too much, they say..."][:1],
        ["月亮离地球很远。", "它是石头做的吗？", "没有人问过！"],
        ["彼は「月は遠い。」と言った。", "誰もそれを聞かなかった。"][1:],
        ["चाँद बहुत दूर है।", "क्या वह पत्थर का है?", "किसी ने नहीं पूछा।"],
        ["القمر بعيد جدا عنا.", "هل هو من حجر كما قالوا؟", "لم يسأل أحد قط."],
        ["พระจันทร์อยู่ไกลมาก", "มันทำจากหินหรือไม่", "ไม่มีใครเคยถาม"],
        ["no mark at all in this one"],
    ],
)
def test_sentences_end_at_the_marks_of_their_script(expected):
    between = "" if re.search("[一-鿿ぁ-ゖ]", expected[0]) else " "
    assert sentences(between.join(expected)) == expected


def test_what_is_too_short_for_a_sentence_belongs_to_the_next_or_the_last():
    assert sentences("1. Soil. The garden is large and old. Indeed so. It has a wall. Yes.") == [
        "1. Soil. The garden is large and old.",
        "Indeed so. It has a wall. Yes.",
    ]
    assert sentences("Too short.") == ["Too short."] and sentences("") == []


@pytest.mark.parametrize("language", ["english", "chinese", "japanese", "thai", "korean", "hindi", "arabic"])
def test_sentences_are_all_of_the_text(language):
    text = " ".join(languages.sample(language).passages[:12]) if language != "english" else " ".join(DOCUMENTS.values())
    assert re.sub(r"\s", "", "".join(sentences(text))) == re.sub(r"\s", "", text)
    assert len(sentences(text)) > 5


def test_no_text_is_lost_whatever_it_holds():
    random = Random(1)
    for _ in range(300):
        text = " ".join("".join(random.choices("aB.!?。1 一กา)\"' ", k=random.randint(0, 40))).split())
        assert re.sub(r"\s", "", "".join(sentences(text))) == re.sub(r"\s", "", text)


# --- crops ------------------------------------------------------------------------------------------------------------


def test_a_sentence_of_a_document_is_its_query(collection, tmp_path):
    stats = generate_queries(config(), collection, tmp_path / "queries", tmp_path / "report.md")
    rows = read(tmp_path / "queries")
    assert (stats.documents, stats.generated, stats.queries, stats.tokens) == (25, 25, 25, 0) and len(rows) == 25
    assert all(row["text"] in sentences(DOCUMENTS[row["source_doc_id"]]) for row in rows)
    places = {sentences(DOCUMENTS[row["source_doc_id"]]).index(row["text"]) for row in rows}
    assert places == {0, 1, 2, 3}, "any of them"
    details = read_manifest(tmp_path / "queries").details
    assert (details["generator"], details["backend"], details["prompt"]) == ("crop", "crop", "")
    assert "crop" in (tmp_path / "report.md").read_text()


def test_a_span_is_as_long_as_a_query_and_at_most_half_of_its_document():
    text = " ".join(f"word{n}" for n in range(100))
    lengths = set()
    for seed in range(200):
        [span] = crops(text, crop="span", seed=seed)
        assert f" {span} " in f" {text} "
        lengths.add(len(span.split()))
    assert lengths == set(range(4, 17))
    assert [len(crops("one two three four five six", crop="span", seed=seed)[0].split()) for seed in range(9)] == [
        3
    ] * 9
    assert crops("alone", crop="span") == ["alone"]


@pytest.mark.parametrize("language", ["chinese", "japanese", "thai"])
def test_a_span_of_a_script_without_blanks_is_made_of_its_words(language):
    text = "".join(languages.sample(language).passages[:8])
    for seed in range(20):
        [span] = crops(text, crop="span", seed=seed)
        assert span in text and 3 <= len(pieces(span)) <= 17


def test_a_document_of_one_sentence_is_not_its_own_query():
    text = " ".join(f"word{n}" for n in range(30))
    [query] = crops(text)
    assert query in text and len(query.split()) <= 15


def test_the_same_document_has_the_same_query_whatever_stands_beside_it(collection, tmp_path):
    generate_queries(config(), collection, tmp_path / "whole")
    whole = by_document(tmp_path / "whole")
    turned = models.collection(tmp_path / "turned", dict(reversed(DOCUMENTS.items())))
    generate_queries(config(shard_documents=3), turned, tmp_path / "other")
    assert by_document(tmp_path / "other") == whole
    few = {doc_id: DOCUMENTS[doc_id] for doc_id in ("d4", "d19")}
    generate_queries(config(), models.collection(tmp_path / "few", few), tmp_path / "part")
    assert by_document(tmp_path / "part") == {doc_id: whole[doc_id] for doc_id in few}
    generate_queries(config(seed=4), collection, tmp_path / "seed")
    assert by_document(tmp_path / "seed") != whole
    generate_queries(config(checkpoint="demo:nobody", prompt="corpus-examples"), collection, tmp_path / "unused")
    assert by_document(tmp_path / "unused") == whole, "neither model nor prompt is looked at"


def test_several_crops_of_a_document_differ_and_there_may_be_fewer(tmp_path):
    documents = {"four": DOCUMENTS["d1"], "two": "The moon is far. The sun is near."}
    collection = models.collection(tmp_path / "collection", documents)
    stats = generate_queries(config(queries_per_document=3), collection, tmp_path / "queries")
    found = by_document(tmp_path / "queries")
    assert {name: len(set(texts)) for name, texts in found.items()} == {"four": 3, "two": 2} and stats.generated == 5


def test_what_was_cropped_is_found_in_the_store(collection, tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    share = help_generate(config(), collection, CorpusConfig(uri="", name="toy"), 0)
    assert (share.documents, share.queries) == (25, 25)
    assert generate_queries(config(), collection, tmp_path / "queries").resumed_documents == 25
    assert generate_queries(config(crop="span"), collection, tmp_path / "queries").resumed_documents == 0


def test_crops_go_through_the_filters(tmp_path):
    documents = {
        "a": "Short one here. Short two here.",
        "b": "Where is the moon? where is the moon?",
        "c": DOCUMENTS["d1"],
    }
    collection = models.collection(tmp_path / "collection", documents, {"t1": ("test", "where is the moon")})
    stats = generate_queries(config(min_query_words=4), collection, tmp_path / "queries")
    assert (stats.too_short, stats.leaked, stats.queries) == (1, 1, 1)


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I cannot help.", "Query: what a label looks like.", '"Quoted words stay."']
)
def test_a_sentence_stays_as_it_stands_whatever_a_models_answer_would_mean(tmp_path, text):
    collection = models.collection(tmp_path / "collection", {"a": f"{text} {text}"})
    generate_queries(config(), collection, tmp_path / "queries")
    assert [row["text"] for row in read(tmp_path / "queries")] == [text]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"drop_copied": True}, ("generation.drop_copied", "crop")),
        ({"keep_probable": 5}, ("generation.keep_probable", "teacher.keep_queries")),
    ],
)
def test_settings_that_crop_cannot_have(collection, tmp_path, changes, facts):
    with refuses("setting-conflict", *facts):
        generate_queries(config(**changes), collection, tmp_path / "queries")
    with refuses("setting-conflict", *facts):
        profiles.load(
            "demo", {"generation.backend": "crop", **{f"generation.{key}": value for key, value in changes.items()}}
        )


def test_every_other_backend_needs_a_checkpoint(collection, tmp_path):
    with refuses("setting-missing", "generation.checkpoint", "generation.backend=crop"):
        generate_queries(GenerateConfig(), collection, tmp_path / "queries")
    with refuses("setting-missing", "generation.checkpoint"):
        profiles.load("demo", {"generation.checkpoint": ""})


def test_a_run_with_crops_needs_no_generator(tmp_path):
    profile = profiles.load("demo", {"generation.backend": "crop", "generation.checkpoint": str(tmp_path)})
    refuse_local(profile)  # a folder of this machine that no pod needs
    assert pin(profile).generation.checkpoint == "", "what is not used is no part of the run's identity"
    assert "no model" in check_generator(profile.generation)
    plan = make_plan(profile, "A100", 0.0, by_size_alone("A100"))
    [row] = [row for row in plan.rows if row.stage == "generate_queries"]
    assert row.queries > 0 and row.tokens == 0 and (row.hours or 0) < 0.01
    assert "generate_queries" in show(plan)
