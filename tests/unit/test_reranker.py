"""`Reranker`: the scores are those of the ranker that labels and evaluates, whatever form the passages have."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from inranker_flow import Reranker, UserError
from inranker_flow.config.sections import ScoringConfig
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.reading import Passages
from tests.refusals import refuses

PASSAGES = ["rooms for two with a view", {"title": "Inns", "text": "beds and breakfast"}, "syrup for a cough", ""]


@pytest.fixture(scope="module")
def reranker():
    return Reranker("demo:student")


def logits(pairs):
    """Of one pair at a time, from the ranker below."""
    ranker = load_ranker("demo:student", ScoringConfig(dtype="float32"))
    return np.array([np.diff(ranker.score([pair])[0])[0] for pair in pairs])


def test_scores_are_the_difference_of_the_two_logits(reranker):
    texts = ["rooms for two with a view", "Inns beds and breakfast", "syrup for a cough", ""]
    expected = logits([("a room", text) for text in texts])
    np.testing.assert_allclose(reranker.score([("a room", each) for each in PASSAGES]), expected, atol=2e-5)


def test_a_ranking_is_sorted_and_names_what_was_given(reranker):
    scores = reranker.score([("a room", each) for each in PASSAGES])
    ranked = reranker.rank("a room", PASSAGES)
    assert [each.position for each in ranked] == sorted(range(4), key=lambda n: -scores[n])
    assert all(each.passage is PASSAGES[each.position] for each in ranked)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert reranker.rank("a room", PASSAGES, top_k=2) == ranked[:2]


def test_equal_passages_keep_their_order_and_none_is_an_empty_ranking(reranker):
    assert [each.position for each in reranker.rank("a room", ["same", "same", "same"])] == [0, 1, 2]
    assert reranker.rank("a room", []) == [] and reranker.rank("a room", PASSAGES, top_k=0) == []
    assert reranker.score([]).shape == (0,)


def test_a_long_text_is_as_good_as_its_best_passage():
    by_passages = Reranker("demo:student", passages=Passages(words=4, stride=4))
    parts = ["syrup for a cough", "rooms for two guests", "a b c d"]
    (score,) = by_passages.score([("a room", " ".join(parts))])
    assert score == pytest.approx(max(by_passages.score([("a room", part) for part in parts])), abs=2e-5)


@pytest.mark.parametrize("wrong", [None, 3, {"title": "without a text"}, {"text": 5}, ["a list"]])
def test_what_is_no_passage_is_named(reranker, wrong):
    with refuses("passage-form"):
        reranker.rank("a room", ["fine", wrong])


def test_what_is_no_number_of_passages_or_no_checkpoint_is_refused(reranker, tmp_path):
    with pytest.raises(UserError, match="top_k: -1 is below 0"):
        reranker.rank("a room", PASSAGES, top_k=-1)
    with refuses("not-found"):
        Reranker(tmp_path / "nothing")


def test_progress_is_shown_unless_the_program_has_its_own_logging(monkeypatch):
    logger = logging.getLogger("inranker_flow")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    root = logging.getLogger()
    own = root.handlers or [logging.NullHandler()]
    monkeypatch.setattr(root, "handlers", own)
    Reranker("demo:student")
    assert not logger.handlers
    monkeypatch.setattr(root, "handlers", [])
    Reranker("demo:student")
    Reranker("demo:student")
    assert len(logger.handlers) == 1 and logger.level == logging.INFO
