"""An index as a first stage, against answers of the form that OpenSearch and Elasticsearch document (no such server is here)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.config.retrieval import RetrieveConfig, SearchServerConfig
from inranker_flow.environment import variables
from inranker_flow.errors import CollectionFault
from inranker_flow.retrieval.first_stages.searched import Searched
from inranker_flow.retrieval.search_body import read_body
from inranker_flow.services import endpoint
from inranker_flow.stages.retrieve import retrieve
from tests.http_server import Answer
from tests.refusals import refuses
from tests.search_server import SearchServer
from tests.unit.test_first_stages import prepared, ranked


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST", 0.001)
    monkeypatch.delenv(variables.SEARCH_KEY, raising=False)


@pytest.fixture
def sample(tmp_path) -> Path:
    return prepared(tmp_path)


def texts(sample: Path) -> dict[str, str]:
    found = tables.read(tables.CORPUS, sample).to_pylist()
    return {row["doc_id"]: row["text"] for row in found}


def config(server: SearchServer, depth: int = 20, **values) -> RetrieveConfig:
    asked = {"endpoint": server.url, "index": "handbook", "retries": 1, "request_queries": 3, **values}
    return RetrieveConfig(
        first_stage="opensearch", server=SearchServerConfig(**asked), depth=depth, test_depth=10, negatives=3
    )


@pytest.mark.parametrize("field", ["", "key"])
def test_what_the_index_finds_in_the_order_of_scores_and_ids(tmp_path, sample, field):
    known = texts(sample)
    with SearchServer(known, field=field) as server:
        stats = retrieve(config(server, id_field=field), sample, None, tmp_path / "out")
    assert (stats.run_rows, stats.negatives) == (40, 24)
    queries = {row["query_id"]: row["text"] for row in tables.read(tables.QUERIES, sample).to_pylist()}
    for query_id, found in ranked(tmp_path / "out").items():
        scores = {doc_id: len(set(queries[query_id].split()) & set(text.split())) for doc_id, text in known.items()}
        assert found == sorted(known, key=lambda doc_id: (-scores[doc_id], doc_id))[:10]
    assert max(server.sizes) > 21, "ties at the cut were asked for"


def test_a_partial_answer_is_asked_for_again_and_never_taken(tmp_path, sample):
    def with_(**values):
        def change(answer):
            answer["responses"][-1].update(values)
            return answer

        return change

    shards = {"total": 2, "successful": 1, "skipped": 0, "failed": 1}
    busy = {"error": {"type": "es_rejected_execution_exception", "reason": "queue full"}, "status": 429}
    troubles = [with_(timed_out=True), with_(_shards=shards), with_(**busy), lambda _: Answer(503, b"no")]
    with SearchServer(texts(sample)) as server:
        retrieve(config(server), sample, None, tmp_path / "plain")
    for trouble in troubles:
        with SearchServer(texts(sample), trouble) as server:
            retrieve(config(server), sample, None, tmp_path / "once")
            assert ranked(tmp_path / "once") == ranked(tmp_path / "plain")
        with SearchServer(texts(sample), *[trouble] * 99) as server, refuses("server-no-answer", server.url):
            retrieve(config(server, concurrency=1), sample, None, tmp_path / "never")
        assert not (tmp_path / "never" / "manifest.json").exists()


def test_what_an_index_refuses_is_said_in_one_line(tmp_path, sample):
    error = {"type": "parsing_exception", "reason": "unknown query [matsch]"}
    known = texts(sample)

    def each(item):
        return lambda answer: {**answer, "responses": [item for _ in answer["responses"]]}

    def run(*trouble, given=known, **values):
        with SearchServer(given, *trouble) as server:
            retrieve(config(server, **values), sample, None, tmp_path / "out")

    with refuses("search-refused", "unknown query", "retrieval.server.index") as caught:
        run(each({"error": error, "status": 400}))
    assert isinstance(caught.value, CollectionFault), "of what is asked for one target: the others go on"
    with refuses("search-refused", "unknown query") as caught:
        run(each({"error": error, "status": 403}))
    assert not isinstance(caught.value, CollectionFault), "whoever asks"
    with refuses("server-refused", "HTTP 404", "retrieval.server.endpoint"):
        run(lambda _: Answer(404, {"error": "no handler found"}))
    with refuses("server-refused", "responses are due"):
        run(lambda _: {"responses": []})
    with refuses("server-refused", "without id or score"):
        run(each({"hits": {"hits": [{"_id": "d001", "_score": None}]}, "timed_out": False}))
    with refuses("reference-lost", "'zzz'", "retrieval.server.id_field") as caught:
        run(given={**known, "zzz": " ".join(f"w{number}" for number in range(300))})
    assert isinstance(caught.value, CollectionFault)
    with refuses("queries-find-nothing", "handbook"):
        run(given={"d001": "nothing"})
    with refuses("setting-missing", "retrieval.server.index"):
        run(index="")
    with refuses("address-form", "retrieval.server.endpoint"):
        run(endpoint="")


def test_hits_that_are_no_ranking_are_never_taken(tmp_path, sample):
    def hits(**values):
        def change(answer):
            for response in answer["responses"]:
                for hit in response["hits"]["hits"]:
                    hit.update(values)
            return answer

        return change

    def run(*trouble):
        with SearchServer(texts(sample), *trouble) as server:
            retrieve(config(server, concurrency=1), sample, None, tmp_path / "out")

    for score in (float("nan"), float("inf"), 10**400):
        with refuses("server-refused", "without id or score"):
            run(hits(_score=score))
    with refuses("search-refused", "'d001' twice", "retrieval.server.id_field"):
        run(hits(_id="d001"))
    for trouble in (hits(_id="\ud800"), lambda _: Answer(200, b"[" * 200_000)):
        with refuses("server-no-answer", "cannot be read"):
            run(*[trouble] * 99)
        run(trouble)
    run(lambda answer: {"responses": [{**each, "_shards": [1]} for each in answer["responses"]]})


def test_its_key_goes_with_each_request_and_into_no_message(tmp_path, sample, monkeypatch):
    for key, header in (("sesame-123", "Bearer sesame-123"), ("ApiKey c2VzYW1l", "ApiKey c2VzYW1l")):
        monkeypatch.setenv(variables.SEARCH_KEY, key)
        with SearchServer(texts(sample)) as server:
            retrieve(config(server), sample, None, tmp_path / "out")
            assert {request.headers["Authorization"] for request in server.requests} == {header}
    with (
        SearchServer({}, lambda _: Answer(401, {"error": "missing authentication credentials"})) as server,
        refuses("server-refused", "HTTP 401", "SEARCH_API_KEY", "inranker-hub") as caught,
    ):
        retrieve(config(server), sample, None, tmp_path / "out")
    assert "c2VzYW1l" not in str(caught.value)


def test_the_template_of_a_search(tmp_path):
    plain = SearchServerConfig()
    assert json.loads(read_body(plain)) == {"query": {"match": {"text": "{query}"}}}
    path = tmp_path / "body.json"
    path.write_text('{"query": {"bool": {"should": [{"match": {"title": "{query}"}}]}}}')
    assert read_body(dataclasses.replace(plain, body=str(path))) == path.read_text()
    for body in ('{"query": ', "{}", '{"query": {"match_all": {}}}'):
        with refuses("search-body", "retrieval.server.body"):
            read_body(dataclasses.replace(plain, body=body))
    with refuses("not-found", "nowhere.json"):
        read_body(dataclasses.replace(plain, body=str(tmp_path / "nowhere.json")))


def test_a_query_of_any_characters_stays_json(sample):
    with SearchServer({"d001": 'say "w1"\n{query}'}) as server:
        with Searched(dataclasses.replace(config(server), max_without_hits=1), sample, 1) as first_stage:
            from inranker_flow.retrieval.first_stage import Queries

            [[(places, scores)]] = first_stage.find([Queries(["q"], ['"w1" \\ {query}'])], 5)
        assert scores.tolist() == [2.0] and first_stage.passages.named(places) == ["d001"]
