"""The leak check: what it finds, what it leaves alone, and that MinHash misses nothing that it should find."""

from __future__ import annotations

import json
import string
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inranker_flow.evaluation.leaks import Finder, JudgedQuery, check, shingles
from inranker_flow.words import normal
from tests.unit.test_evaluation import make_collection, make_labels

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  What's a “Vase”? ", "what s a vase"),
        ("ﬁne　ＦＵＬＬ-width", "fine full width"),
        ("STRASSE straße", "strasse strasse"),
        ("C# or C++, 50% off", "c# or c++ 50% off"),
        ("हिंदी में", "हिंदी में"),  # vowel signs are letters' parts, not punctuation
        ("می\u200cخواهم", "میخواهم"),  # typed with a joiner or without
        ("co\u00adoperate\u200bnow", "cooperate now"),
        ("???", "???"),
    ],
)
def test_normal(text: str, expected: str) -> None:
    assert normal(text) == expected


@given(st.text(max_size=30))
def test_normal_is_settled_after_one_pass(text: str) -> None:
    assert normal(normal(text)) == normal(text)


def found(tests: list[str], text: str, similarity: float = 0.9) -> list[str]:
    return [tests[number] for number, _ in Finder(tests, similarity).find(text)]


@pytest.mark.parametrize(
    ("training", "leaks"),
    [
        ("how are blue vases from delft made", True),
        ("How are blue vases, from Delft, made?", True),
        ("how are blue vases from delft maded", True),  # a letter more
        ("how are blue vases from delft painted", False),
        ("how are red vases from delft made", False),
        ("", False),
    ],
)
def test_equal_and_nearly_equal_queries_leak(training: str, leaks: bool) -> None:
    test = "how are blue vases from delft made"
    assert found(["something else", test], training) == ([test] if leaks else [])


def test_other_numbers_ask_for_something_else() -> None:
    test = "which phone case fits the model 11 that was sold in europe since 2019"
    assert found([test], test.replace("2019", "2018"), 0.8) == []
    assert found([test], test + "s", 0.8) == [test]


def test_equal_queries_alone_where_the_bound_is_one() -> None:
    test = "how are blue vases from delft made"
    assert found([test], test + "s", 1.0) == [] and found([test], test.upper(), 1.0) == [test]


def test_a_query_of_two_datasets_leaks_in_both() -> None:
    assert found(["vase", "vase"], "Vase") == ["vase", "vase"]


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.9])
def test_minhash_finds_what_comparing_everything_finds(similarity: float) -> None:
    random = Random(1)
    words = ["".join(random.choices(string.ascii_lowercase, k=random.randint(3, 8))) for _ in range(60)]
    tests = [" ".join(random.sample(words, 6)) for _ in range(80)]
    trained = []
    for test in tests * 5:
        letters = list(test)
        for _ in range(random.randint(0, 3)):
            letters[random.randrange(len(letters))] = random.choice(string.ascii_lowercase)
        trained.append("".join(letters))
    finder = Finder(tests, similarity)
    expected, ours = set(), set()
    for text in trained:
        own = shingles(normal(text))
        for number, test in enumerate(tests):
            other = shingles(normal(test))
            if len(own & other) / len(own | other) >= similarity:
                expected.add((text, number))
        ours |= {(text, number) for number, _ in finder.find(text)}
    assert len(expected) > 50 and ours == expected


def test_a_leak_says_which_query_where_and_whether_the_answer_was_shown(tmp_path: Path) -> None:
    docs = {"d1": "Blue vases, fired twice.", "d2": "Red vases.", "d3": "Lamps."}
    collection = make_collection(
        tmp_path / "c", "vases", docs, {"q1": "how are vases made"}, {"q1": {"d1": 1, "d2": 0}}
    )
    # Another corpus under other ids: the same passage, judged relevant, is known by its text.
    pairs = {"t1": ("other things", ["Lamps."]), "t2": ("How are vases made?", ["Blue vases fired twice", "x"])}
    shown = make_labels(tmp_path / "l1", "crafts", pairs)
    asked = make_labels(tmp_path / "l2", "vases", {"t3": ("how are vases made", ["Red vases."])}, origin="supervised")
    clean = make_labels(tmp_path / "l3", "none", {"t4": ("who makes vases", ["Blue vases, fired twice."])})
    tests = [JudgedQuery("vases", "q1", "how are vases made", ("d1",))]
    report = check(tests, {"vases": collection}, [shown, asked, clean], 0.9)
    assert report.training_queries == 4
    assert [(leak.trained_on, leak.kind, leak.training_query_id, leak.origin, leak.judged_pairs) for leak in report.leaks] == [
        ("crafts", "exact", "t2", "synthetic", 1), ("vases", "exact", "t3", "supervised", 0),
    ]  # fmt: skip
    assert {(leak.dataset, leak.query_id, leak.text) for leak in report.leaks} == {
        ("vases", "q1", "how are vases made")
    }


def test_a_judged_document_that_is_a_training_passage_is_counted_and_no_leak(tmp_path: Path) -> None:
    collection = make_collection(tmp_path / "c", "vases", {"p0": "Blue vases."}, {"q1": "vases"}, {"q1": {"p0": 1}})
    labels = make_labels(tmp_path / "l", "vases", {"t1": ("what is blue", ["Blue vases."])})
    report = check([JudgedQuery("vases", "q1", "vases", ("p0",))], {"vases": collection}, [labels], 0.9)
    assert report.leaks == () and report.passages == {"vases": 1}


def test_real_collections_that_share_their_queries_are_caught() -> None:
    """adi and cisi have 35 queries in common; medquad's questions are other ones than liveqa's."""
    folder = DATA / "collections"
    if not folder.is_dir():
        pytest.skip("no real collections beside the repository (../shared/data)")

    def texts(path: Path) -> list[str]:
        with (path / "queries.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in lines]

    def leaked(tests: list[str], trained: list[str]) -> int:
        finder = Finder(tests, 0.9)
        return len({number for text in trained for number, _ in finder.find(text)})

    adi, cisi = texts(folder / "adi"), texts(folder / "cisi")
    assert leaked(adi, cisi) == len(adi) == 35
    assert leaked(texts(folder / "liveqa-med"), texts(DATA / "train" / "medquad")) == 0
