"""A teacher behind a server, over real connections: its forms, what it may do wrong, and what is kept."""

from __future__ import annotations

import math
import time

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import Teacher, TeacherConfig
from inranker_flow.config.server import ServerConfig
from inranker_flow.environment import variables
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.labelling.label_store import identity_of
from inranker_flow.preflight.teachers import check_teachers
from inranker_flow.redaction import redact
from inranker_flow.scoring.rerank_apis import MOST_LOG_ODDS
from inranker_flow.services import endpoint
from inranker_flow.stages.teacher_label import teacher_label
from tests import models
from tests.http_server import Answer, HttpServer
from tests.refusals import refuses
from tests.rerank_server import TOKENS, RerankServer, raw
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

TEXTS = {(QUERIES[query], DOCUMENTS[doc]) for query, doc in PAIRS}


def config(server, api="score", scores="logit", shard_pairs=100, **changes):
    settings = {"request_pairs": 3, "concurrency": 4, "request_timeout": 5.0, "retries": 2, **changes}
    return TeacherConfig(
        "big-reranker",
        backend="server",
        shard_pairs=shard_pairs,
        server=ServerConfig(endpoint=getattr(server, "url", server), api=api, scores=scores, **settings),
    )


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST", 0.02)
    monkeypatch.delenv(variables.TEACHER_KEY, raising=False)


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


@pytest.mark.parametrize(
    ("api", "scores", "requests"), [("score", "logit", 8), ("rerank", "probability", 12), ("tei", "logit", 12)]
)
def test_every_pair_gets_its_own_score_by_every_api(inputs, tmp_path, api, scores, requests):
    with RerankServer(headers={"x": "y"}) as server:
        stats = teacher_label(config(server, api, scores), *inputs, tmp_path / "labels")
    found = read(tmp_path / "labels")
    expected = {(q, d): raw(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS}
    assert {pair: true - false for pair, (false, true) in found.items()} == pytest.approx(expected, abs=1e-6)
    assert all(false == -true for false, true in found.values())
    assert (stats.pairs, stats.requests, stats.tokens) == (24, requests, 24 * TOKENS) and stats.pairs_per_second > 0
    assert set(server.pairs()) == TEXTS and len(server.pairs()) == 24
    details = read_manifest(tmp_path / "labels").details
    (told,) = details["teachers"]
    assert (told["backend"], told["teacher"]) == ("server", "big-reranker") and details["teacher"] == "big-reranker"
    assert told["least"] == pytest.approx(min(expected.values())) and told["largest"] <= 4
    assert told.get("clipped") == {"logit": None, "probability": 0}[scores]
    path, first = server.requests[0]
    assert path == {"score": "/score", "rerank": "/rerank", "tei": "/rerank"}[api]
    asked = {"score": {"use_activation": False, "truncate_prompt_tokens": -1, "model": "big-reranker"},
             "rerank": {"model": "big-reranker"}, "tei": {"raw_scores": True, "truncate": True}}[api]  # fmt: skip
    assert {
        key: value for key, value in first.items() if key not in ("query", "texts", "documents", "text_1", "text_2")
    } == asked


def test_only_so_many_requests_are_under_way(inputs, tmp_path):
    with RerankServer(delay=0.03) as server:
        teacher_label(config(server, request_pairs=1), *inputs, tmp_path / "labels")
    assert server.most_at_once == 4


def test_log_odds_are_clipped_and_counted(inputs, tmp_path):
    with RerankServer(score=lambda query, passage: float(raw(query, passage) > 0)) as server:
        teacher_label(config(server, "rerank", "probability"), *inputs, tmp_path / "labels")
    scores = {true - false for false, true in read(tmp_path / "labels").values()}
    assert sorted(scores) == pytest.approx([-MOST_LOG_ODDS, MOST_LOG_ODDS]) and math.isfinite(MOST_LOG_ODDS)
    assert read_manifest(tmp_path / "labels").details["teachers"][0]["clipped"] == 24


def test_scores_that_are_no_probabilities_are_refused(inputs, tmp_path):
    with (
        RerankServer(score=raw) as server,
        refuses("scores-no-probabilities", "teacher.server.scores", "set it to logit"),
    ):
        fields = {"use_activation": False}
        teacher_label(config(server, "rerank", "probability", request_fields=fields), *inputs, tmp_path / "labels")


@pytest.mark.parametrize("wide", [False, True])
def test_logits_that_look_like_probabilities_are_told(tmp_path, caplog, wide):
    queries = {f"q{n}": f"question {n}" for n in range(7)}
    pairs = [(query, doc) for query in queries for doc in list(DOCUMENTS)[:10]]
    inputs = models.collection(tmp_path / "c", DOCUMENTS), models.candidates(tmp_path / "k", queries, pairs)
    with RerankServer(score=lambda q, p: abs(raw(q, p)) / (1 if wide else 4)) as server:
        teacher_label(config(server), *inputs, tmp_path / "labels")
    assert ("teacher.server.scores to probability" in caplog.text) != wide


# --- what goes wrong --------------------------------------------------------------------------------------------------


def first_item(change):
    """Change the first item of an answer of /score."""

    def changed(answer):
        change(answer["data"])
        return answer

    return lambda number: changed


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        (lambda data: data.pop(), "server-misbehaves", ("gives 2 scores for the 3 pairs", "top_n")),
        (lambda data: data[0].update(index=3), "server-misbehaves", ("pair 3 of the 3",)),
        (lambda data: data[0].update(index=-1), "server-misbehaves", ("pair -1 of the 3",)),
        (lambda data: data[0].update(index=1), "server-misbehaves", ("two scores for pair 1",)),
        (lambda data: data[0].update(score=math.nan), "logits-not-finite", ("the score nan", "dtype")),
        (lambda data: data[0].update(score=-math.inf), "logits-not-finite", ("the score -inf",)),
        (lambda data: data[0].update(score=None), "server-misbehaves", ("no index with a score", "server.api")),
        (lambda data: data[0].update(score="0.5"), "server-misbehaves", ('"score": "0.5"',)),
        (lambda data: data.insert(0, "text"), "server-misbehaves", ("no index with a score",)),
    ],
)
def test_an_answer_that_is_none_is_one_line(inputs, tmp_path, change, code, facts):
    with RerankServer(trouble=first_item(change)) as server, refuses(code, server.url, *facts):
        teacher_label(config(server), *inputs, tmp_path / "labels")
    assert len(server.requests) <= 8, "asking again does not help"
    assert not (tmp_path / "labels" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "changes", "code", "facts"),
    [
        ({"trouble": lambda n: lambda answer: [1]}, {}, "server-misbehaves", ("[1] where a list data is due", "server.api")),
        ({"trouble": lambda n: lambda answer: {"error": "x"}}, {"api": "tei"}, "server-misbehaves", ('{"error": "x"}',)),
        ({"model": "other"}, {}, "server-refused", ("The model `big-reranker` does not exist",)),
        ({"model": "other"}, {"api": "tei"}, "model-not-served", ("serves other and not big-reranker",)),
        ({"trouble": lambda n: 422}, {}, "server-refused", ("HTTP 422 trouble, on purpose",)),
        ({"most_pairs": 2}, {"api": "tei"}, "server-refused", ("maximum allowed batch size 2", "server.request_pairs")),
        ({"limit": 30}, {"api": "rerank"}, "server-refused", ("maximum context length", "passage_characters")),
        ({}, {"request_fields": {"model": "x"}}, "setting-conflict", ("request_fields: model",)),
        ({}, {"endpoint": ""}, "setting-missing", ("teacher.server.endpoint",)),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_that_says_what_to_do(inputs, tmp_path, options, changes, code, facts):
    with RerankServer(**options) as server, refuses(code, *facts):
        address = changes.pop("endpoint", server.url)
        teacher_label(config(address, **changes), *inputs, tmp_path / "labels")


def test_an_answer_that_ends_early_is_asked_for_again(inputs, tmp_path):
    with RerankServer(trouble=lambda number: "half" if number in (0, 5) else None) as server:
        assert teacher_label(config(server), *inputs, tmp_path / "labels").requests == 8
        assert len(server.requests) == 10
    with (
        RerankServer(trouble=lambda number: "half") as server,
        refuses("server-no-answer", "cannot be read", "3 times"),
    ):
        again = config(server)
        teacher_label(TeacherConfig("big-reranker", "2", "server", server=again.server), *inputs, tmp_path / "half")


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_the_server_asks_for_is_kept(inputs, tmp_path, status):
    trouble = lambda number: status if number == 0 else None  # noqa: E731
    with RerankServer(trouble=trouble, headers={"Retry-After": "0.6"}) as server:
        start = time.monotonic()
        teacher_label(config(server, request_pairs=24), *inputs, tmp_path / "labels")
    assert time.monotonic() - start >= 0.6 and len(server.requests) == 2


@pytest.mark.parametrize("api", ["score", "tei"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"data": [{"index": 0, "score": 1' + b"0" * 400 + b"}]}",
        b'[{"index": 0, "score": 1' + b"0" * 400 + b"}]",
    ],
    ids=["deep", "huge", "huge-list"],
)
def test_json_that_no_number_or_stack_holds_is_one_line(api, body):
    answers = [Answer(200, body)]
    with HttpServer({"/score": answers, "/rerank": answers, "/info": [Answer(200, b"[" * 100_000)]}) as server:
        teacher = config(server.url, api=api, retries=1)
        with pytest.raises(UserError) as caught:
            check_teachers(teacher)
        assert caught.value.code in ("server-no-answer", "server-misbehaves") and "\n" not in str(caught.value)
    with HttpServer({"/score": [Answer(400, b"[" * 100_000)]}) as server, refuses("server-refused", "HTTP 400"):
        check_teachers(config(server.url))


def test_a_server_that_says_the_same_of_everything_teaches_nothing(tmp_path):
    queries = {f"q{number}": f"query {number}" for number in range(16)}
    pairs = [(query, doc) for query in queries for doc in list(DOCUMENTS)[:4]]
    inputs = models.collection(tmp_path / "c", DOCUMENTS), models.candidates(tmp_path / "k", queries, pairs)
    with (
        RerankServer(score=lambda query, passage: 0.25) as server,
        refuses("scores-alike", "big-reranker", "all 64 pairs", "0.25", "teacher.revision"),
    ):
        teacher_label(config(server), *inputs, tmp_path / "labels")
    assert not (tmp_path / "labels" / "manifest.json").exists()


def test_tokens_that_are_no_number_count_for_nothing():
    answer = b'{"data": [{"index": 0, "score": 1}], "usage": {"total_tokens": Infinity}}'
    with HttpServer({"/score": [Answer(200, answer)]}) as server:
        assert check_teachers(config(server.url))


@pytest.mark.parametrize("key", ["first-half\nsecond-half", "secret\u2019s", "half\x00half"])
def test_a_key_that_no_header_holds_is_refused_and_never_told(monkeypatch, caplog, key):
    if "\x00" in key:  # no environment holds it
        monkeypatch.setattr(variables, "teacher_key", lambda: key)
    else:
        monkeypatch.setenv(variables.TEACHER_KEY, key)
    with (
        RerankServer() as server,
        refuses("setting-value", variables.TEACHER_KEY, "line break") as error,
    ):
        check_teachers(config(server))
    assert not server.requests and not any(part in str(error.value) + caplog.text for part in key.split("\n"))


def test_the_key_is_sent_and_never_told(inputs, tmp_path, monkeypatch, caplog):
    with RerankServer(key="sesame-123") as server:
        for wrong in ("", "wrong-456"):
            monkeypatch.setenv(variables.TEACHER_KEY, wrong)
            monkeypatch.setenv(variables.ENDPOINT_KEY, "sesame-123")  # another server's
            with refuses("server-refused", "HTTP 401 Incorrect API key", "TEACHER_API_KEY", "inranker-hub") as caught:
                teacher_label(config(server), *inputs, tmp_path / "labels")
            assert "456" not in str(caught.value)
        monkeypatch.setenv(variables.TEACHER_KEY, "sesame-123")
        assert teacher_label(config(server), *inputs, tmp_path / "labels").requests == 8
    told = caplog.text + (tmp_path / "labels" / "manifest.json").read_text()
    assert "sesame" not in told and "456" not in told and redact("it is sesame-123") == "it is ***"


def test_preflight_asks_for_the_score_of_one_pair(monkeypatch):
    with RerankServer(key="sesame-123") as server:
        with refuses("server-refused", "HTTP 401", "TEACHER_API_KEY"):
            check_teachers(config(server))
        monkeypatch.setenv(variables.TEACHER_KEY, "sesame-123")
        also = config(server, "tei")
        both = TeacherConfig("demo:teacher", also=(also,))
        assert check_teachers(both) == f"demo:teacher: there; big-reranker is served at {server.url}"
        assert len(server.requests) == 2 and len(server.pairs()) == 2
        with refuses("server-misbehaves", "where a list results is due", "teacher.server.api"):
            server.trouble = lambda number: lambda answer: {}
            check_teachers(config(server, "rerank"))
    with refuses("server-no-answer", "nobody answers there"):
        check_teachers(config(server))
    with refuses("checkpoint-kind", "teacher.also[0]: "):
        check_teachers(TeacherConfig("demo:teacher", also=(Teacher(models.causal()),)))


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_was_answered_before_a_server_went_away_is_not_asked_for_again(inputs, tmp_path):
    with (
        RerankServer(trouble=lambda number: 503 if number > 4 else None) as server,
        pytest.raises(NoAnswer, match=r"HTTP 503 trouble, on purpose, and so 3 times; .* what is finished is kept"),
    ):
        teacher_label(config(server, concurrency=1), *inputs, tmp_path / "labels")
    answered = set(list(dict.fromkeys(server.pairs()))[:15])
    with RerankServer() as server:
        stats = teacher_label(config(server), *inputs, tmp_path / "labels")
        assert (stats.reused_pairs, stats.requests) == (15, 3) and set(server.pairs()) == TEXTS - answered
        again = teacher_label(config(server, concurrency=9, request_pairs=1), *inputs, tmp_path / "again")
        assert again.requests == 0 and len(server.requests) == 3
    assert read(tmp_path / "again") == read(tmp_path / "labels")


def test_a_server_that_is_not_there(inputs, tmp_path):
    with RerankServer() as server:
        pass
    with refuses("server-no-answer", server.url, "nobody answers there"):
        teacher_label(config(server), *inputs, tmp_path / "labels")


def test_what_changes_a_score_changes_the_identity_and_nothing_else_does():
    def of(revision="", **server):
        return identity_of(Teacher("m", revision, "server", server=ServerConfig(endpoint="http://a", **server)))

    others = [of("2"), of(api="tei"), of(scores="probability"), of(passage_characters=9), of(request_fields={"a": 1})]
    assert len({str(each) for each in [of(), *others]}) == 6
    plain = Teacher(
        "m", "", "server", server=ServerConfig(endpoint="http://b", request_pairs=2, concurrency=1, retries=0)
    )
    assert identity_of(plain) == of() and "http" not in str(of())


def test_passages_are_cut_at_a_number_of_characters_if_that_is_asked_for(inputs, tmp_path):
    with RerankServer(limit=30) as server:
        teacher_label(config(server, "rerank", "probability", passage_characters=30), *inputs, tmp_path / "labels")
    assert set(server.pairs()) == {(query, passage[:30]) for query, passage in TEXTS}
    assert tables.read(tables.CORPUS, tmp_path / "labels").column("text").to_pylist() == [
        DOCUMENTS[doc] for doc in sorted({doc for _, doc in PAIRS}, key=lambda each: list(DOCUMENTS).index(each))
    ]
