"""The server: shapes of requests and answers, bad input, the queue; real models over a real socket."""

from __future__ import annotations

import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.config.sections import Teacher
from inranker_flow.config.server import ServerConfig
from inranker_flow.reranker import Reranker
from inranker_flow.scoring.rerank_server import RerankServer
from inranker_flow.serving import bodies
from inranker_flow.serving.bodies import Limits
from inranker_flow.serving.metrics import Metrics
from inranker_flow.serving.models import Fixed, Loaded
from inranker_flow.serving.server import listen
from inranker_flow.serving.service import Service
from tests import models, teachers
from tests.serving import PASSAGES, QUERY, Client, running, until

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "rerank-clients.json").read_text(encoding="utf-8"))
LIMITS = Limits(passages=50, passage_characters=10_000, query_characters=1000, body_bytes=100_000)


class Gate:
    """A real reranker that scores when it is let: a test decides what waits."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker, self.dtype, self.batch_tokens = reranker, reranker.dtype, reranker.batch_tokens
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        #: Pairs of each call.
        self.calls: list[int] = []
        self.trouble = ""

    def score(self, pairs):
        self.calls.append(len(pairs))
        self.entered.release()
        self.open.wait()
        if self.trouble and any(self.trouble in passage for _, passage in pairs):
            raise RuntimeError(f"cannot score {self.trouble}")
        return self.reranker.score(pairs)


@pytest.fixture(scope="module")
def reranker():
    return Reranker(models.t5())


def service(backend, **options):
    metrics = Metrics()
    options = {"limits": LIMITS, **options}
    return Service("toy", Fixed(Loaded("models:/toy/3", "3", backend), metrics), metrics, **options)


@pytest.fixture(scope="module")
def client(reranker):
    with running(service(reranker)) as found:
        yield found


@pytest.fixture(scope="module")
def scores(reranker):
    return reranker.score([(QUERY, each) for each in PASSAGES])


def best(scores):
    return sorted(range(len(scores)), key=lambda n: -scores[n])


# Shapes


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_cohere_and_jina_get_probabilities_by_index_best_first(client, scores, path):
    status, found = client.post(path, {"model": "toy", "query": QUERY, "documents": PASSAGES, "top_n": 3})
    assert status == 200 and [each["index"] for each in found["results"]] == best(scores)[:3]
    expected = [1 / (1 + np.exp(-scores[each["index"]])) for each in found["results"]]
    assert [each["relevance_score"] for each in found["results"]] == pytest.approx(expected, abs=1e-5)
    assert not any("document" in each for each in found["results"]) and found["id"]


def test_documents_come_back_when_they_are_asked_for_and_may_be_objects(client, scores):
    given = [{"text": PASSAGES[0], "id": 7}, {"title": "The", "text": "bridge of copper"}, *PASSAGES[2:]]
    status, found = client.post("/rerank", {"query": QUERY, "documents": given, "return_documents": True})
    assert status == 200 and len(found["results"]) == len(given)
    by_index = {each["index"]: each for each in found["results"]}
    assert by_index[1]["document"] == {"text": "bridge of copper"} and by_index[2]["document"] == {"text": PASSAGES[2]}
    assert by_index[0]["relevance_score"] == pytest.approx(1 / (1 + np.exp(-scores[0])), abs=1e-5)


def test_raw_scores_are_the_log_odds(client, scores):
    _, found = client.post("/rerank", {"query": QUERY, "documents": PASSAGES, "raw_scores": True})
    assert {e["index"]: e["relevance_score"] for e in found["results"]} == pytest.approx(
        dict(enumerate(scores)), abs=1e-4
    )


def test_tei_gets_a_list(client, scores):
    status, found = client.post("/rerank", {"query": QUERY, "texts": PASSAGES, "raw_scores": True, "return_text": True})
    assert status == 200 and [each["index"] for each in found] == best(scores)
    assert found[0]["text"] == PASSAGES[found[0]["index"]]
    assert found[0]["score"] == pytest.approx(max(scores), abs=1e-4)


def test_the_openai_style_route_returns_documents(client):
    _, found = client.post("/openai/v1/rerank", {"model": "toy", "query": QUERY, "documents": PASSAGES})
    assert found["model"] == "toy" and found["results"][0]["document"]["text"] in PASSAGES


def test_the_v2_protocol(client, scores):
    assert client.get("/v2/health/live") == (200, {"live": True})
    assert client.get("/v2/health/ready") == (200, {"ready": True})
    assert client.get("/v2/models/toy/ready") == (200, {"ready": True})
    _, told = client.get("/v2/models/toy")
    assert told["versions"] == ["3"] and [each["name"] for each in told["inputs"]] == ["query", "passages"]
    inputs = [
        {"name": "query", "shape": [1], "datatype": "BYTES", "data": [QUERY]},
        {"name": "passages", "shape": [len(PASSAGES)], "datatype": "BYTES", "data": PASSAGES},
    ]
    for path in ("/v2/models/toy/infer", "/v2/models/toy/versions/3/infer"):
        status, found = client.post(path, {"id": "7", "inputs": inputs})
        assert status == 200 and found["id"] == "7" and found["model_version"] == "3"
        [output] = found["outputs"]
        assert output["shape"] == [len(PASSAGES)] and output["data"] == pytest.approx(scores.tolist(), abs=1e-4)


def test_an_encoder_serves_too():
    encoder = Reranker(teachers.encoder())
    with running(service(encoder)) as client:
        _, found = client.post("/rerank", {"query": QUERY, "documents": PASSAGES, "raw_scores": True})
        expected = encoder.score([(QUERY, each) for each in PASSAGES])
        got = {each["index"]: each["relevance_score"] for each in found["results"]}
        assert got == pytest.approx(dict(enumerate(expected)), abs=1e-4)


@pytest.mark.parametrize("provider", ["cohere", "jina", "text-embeddings-inference"])
def test_the_client_of_rerankers(client, scores, provider):
    from rerankers.models.api_rankers import APIRanker

    path = "/rerank" if provider.startswith("text") else "/v1/rerank"
    ranked = APIRanker("toy", "no key", provider, url=f"{client.url}{path}").rank(QUERY, PASSAGES)
    assert [each.document.doc_id for each in ranked.results] == best(scores)


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda each: each["client"])
def test_what_other_clients_send(client, recorded):
    """Requests as these clients sent them; each client read this server's answer then."""
    status, found = client.post(recorded["path"], recorded["body"].encode())
    assert status == 200
    results = found if recorded["path"] == "/rerank" else found["results"]
    score = "score" if recorded["path"] == "/rerank" else "relevance_score"
    assert [each["index"] for each in results] == [0, 1][: json.loads(recorded["body"]).get("top_n")]
    assert all(0 < each[score] < 1 for each in results)


@pytest.mark.parametrize("api", ["rerank", "tei"])
def test_it_can_be_the_teacher_of_a_pipeline(client, scores, api):
    server = ServerConfig(endpoint=client.url, api=api, scores="probability")
    teacher = Teacher("toy", backend="server", server=server)
    asked = RerankServer(teacher)
    asked.check_model()
    found = asked.ask([(QUERY, each) for each in PASSAGES])
    np.testing.assert_allclose(found.scores, scores, atol=1e-3)


# Bad input


def bad(**fields):
    return {"query": QUERY, "documents": PASSAGES, **fields}


BAD = {
    "no JSON": (b'{"query": "a', 400, "no valid JSON"),
    "not UTF-8": (b'{"query": "\xff", "documents": ["a"]}', 400, "no valid JSON"),
    "half a character": (b'{"query": "\\ud800", "documents": ["a"]}', 400, "no valid JSON"),
    "nested": (b"[" * 50_000, 400, "no valid JSON"),
    "a list": (b"[]", 422, "the body: "),
    "empty body": (b"", 400, "no valid JSON"),
    "no query": ({"documents": PASSAGES}, 422, "query: field required"),
    "empty query": (bad(query="  "), 422, "query: empty"),
    "query of another type": (bad(query=["a"]), 422, "query: "),
    "long query": (bad(query="a" * 2000), 413, "query: 2,000 characters"),
    "no passages": ({"query": QUERY}, 422, "documents: missing"),
    "empty list": (bad(documents=[]), 422, "documents: empty"),
    "empty list of TEI": ({"query": QUERY, "texts": []}, 422, "texts: empty"),
    "too many": (bad(documents=["a"] * 51), 413, "51 passages; at most 50"),
    "a long passage": (bad(documents=["a", "b" * 20_000]), 413, "documents[1]: 20,000 characters"),
    "a large body": (bad(documents=["b" * 200_000]), 413, "the body has more than 100,000 bytes"),
    "a number": (bad(documents=["a", 5]), 422, "documents[1]: expected a text"),
    "an object without text": (bad(documents=[{"image": "x"}]), 422, "documents[0]: expected a text"),
    "null": (bad(documents=[None]), 422, "documents[0]: expected a text"),
    "a text instead of a list": (bad(documents="a"), 422, "documents: "),
    "top_n 0": (bad(top_n=0), 422, "top_n: 0 is below 1"),
    "top_n as text": (bad(top_n="3"), 422, "top_n: "),
    "another model": (bad(model="gpt"), 404, "model: 'gpt' is not served here"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_names_it(client, name):
    body, status, said = BAD[name]
    got, answer = client.post("/v1/rerank", body)
    assert (got, answer["error_type"] != "internal") == (status, True), answer
    assert said in answer["message"] and "\n" not in answer["message"] and len(answer["message"]) < 300
    assert client.post("/v1/rerank", bad())[0] == 200, "it serves on"


def test_what_is_too_large_is_refused_at_its_real_size(reranker):
    large = {
        "documents: 10,000 passages; at most 1,000": ["garden"] * 10_000,
        "documents[0]: 2,000,000 characters; at most 200,000": ["a" * 2_000_000],
        "the body has more than 16,777,216 bytes": ["a" * 2_000_000] * 9,
    }
    with running(service(reranker, limits=Limits())) as client:
        for said, documents in large.items():
            status, answer = client.post("/rerank", bad(documents=documents))
            assert status == 413 and said in answer["message"]
        assert client.post("/rerank", bad())[0] == 200


@pytest.mark.parametrize(
    ("path", "inputs", "status", "said"),
    [
        ("/v2/models/toy/infer", [], 422, "no tensor 'query'"),
        ("/v2/models/gpt/infer", [], 404, "is not served here"),
        ("/v2/models/toy/versions/2/infer", [], 404, "version '2' does not serve"),
        ("/v2/models/toy/infer", [("query", ["a"], []), ("passages", [], [])], 422, "passages: empty"),
        ("/v2/models/toy/infer", [("query", ["a"], []), ("passages", ["a", "b"], [3])], 422, "2 elements, but shape"),
        ("/v2/models/toy/infer", [("query", [3], []), ("passages", ["a"], [])], 422, "query: expected a text"),
        ("/v2/models/toy/infer", [("query", ["a"] * 2, []), ("passages", ["a"], [])], 422, "2 queries for 1"),
    ],
)
def test_bad_tensors_are_named(client, path, inputs, status, said):
    given = [{"name": name, "data": data, "shape": shape, "datatype": "BYTES"} for name, data, shape in inputs]
    got, answer = client.post(path, {"inputs": given})
    assert got == status and said in answer["message"], answer


def test_routes_that_are_not_there(client):
    assert client.get("/nothing")[0] == 404 and "GET / lists the routes" in client.get("/nothing")[1]["message"]
    assert client.get("/rerank")[0] == 405
    assert b"POST /rerank" in client.send("GET", "/").data
    assert "/v2/rerank" in client.get("/openapi.json")[1]["paths"]
    assert client.get("/v2/models/gpt")[0] == 404


def test_what_a_client_sends_is_neither_logged_nor_repeated_unless_a_person_asks(reranker, caplog):
    secret = "umbrella-4711"
    for shown in (False, True):
        caplog.clear()
        with running(service(reranker, log_texts=shown)) as client, caplog.at_level(logging.INFO, "inranker_flow"):
            answers = [
                client.post("/rerank", {"query": f"{secret} q", "documents": [f"{secret} p", "x"]}),
                client.post("/rerank", {"query": [secret], "documents": [secret]}),
                client.post("/rerank", {"query": secret, "documents": [{"body": secret}]}),
            ]
        assert [status for status, _ in answers] == [200, 422, 422] and secret not in json.dumps(answers)
        logged = json.dumps([[record.getMessage(), getattr(record, "fields", {})] for record in caplog.records])
        assert (secret in logged) == shown and '"passages": 2' in logged


def test_an_answer_waits_for_no_acknowledgement_of_its_head():
    """Without it a client on a kept connection waits 40 ms for each body (Nagle's algorithm, delayed acknowledgements)."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The queue


def test_requests_that_wait_are_scored_together_and_each_gets_its_own(reranker, scores):
    gate = Gate(reranker)
    with running(service(gate)) as client, ThreadPoolExecutor(8) as pool:
        gate.open.clear()
        first = pool.submit(client.post, "/rerank", bad())
        gate.entered.acquire()
        others = [pool.submit(client.post, "/rerank", bad(documents=[each], raw_scores=True)) for each in PASSAGES]
        until(lambda: client.metric("inranker_queue_requests") == len(PASSAGES))
        gate.open.set()
        assert first.result()[0] == 200
        got = [each.result()[1]["results"][0]["relevance_score"] for each in others]
        assert got == pytest.approx(scores.tolist(), abs=1e-4)
        assert gate.calls == [len(PASSAGES)] * 2, "five requests, one batch"
        assert client.metric("inranker_batch_pairs_sum") == 2 * len(PASSAGES)


def test_a_batch_holds_no_more_than_its_budget(reranker):
    gate = Gate(reranker)
    gate.batch_tokens = 5  # eight batches of the ranker: 40 tokens
    with running(service(gate)) as client, ThreadPoolExecutor(8) as pool:
        gate.open.clear()
        asked = [pool.submit(client.post, "/rerank", bad())]
        gate.entered.acquire()
        asked += [pool.submit(client.post, "/rerank", bad(query="river", documents=["m" * 62] * 2)) for _ in range(3)]
        until(lambda: client.metric("inranker_queue_requests") == 3)
        gate.open.set()
        assert [each.result()[0] for each in asked] == [200] * 4
    assert gate.calls == [5, 2, 2, 2]


def test_a_full_queue_is_429_and_waiting_too_long_503(reranker):
    gate = Gate(reranker)
    with running(service(gate, queue=2, patience=1.0)) as client, ThreadPoolExecutor(8) as pool:
        gate.open.clear()
        first = pool.submit(client.post, "/rerank", bad())
        gate.entered.acquire()
        waiting = [pool.submit(client.post, "/rerank", bad()) for _ in range(2)]
        until(lambda: client.metric("inranker_queue_requests") == 2)
        refused = client.send("POST", "/rerank", json.dumps(bad()).encode())
        assert refused.status == 429 and refused.headers["Retry-After"] == "1"
        for each in waiting:
            status, answer = each.result()
            assert status == 503 and "not begun within 1 s" in answer["message"]
        assert not first.done(), "what is under way is not cut off"
        later = pool.submit(client.post, "/rerank", bad())
        # What nobody waits for takes nobody's place.
        until(lambda: client.metric("inranker_queue_requests") == 1)
        gate.open.set()
        assert first.result()[0] == 200 and later.result()[0] == 200
        assert gate.calls == [5, 5], "what nobody waits for is not scored"
        assert client.metric('inranker_requests_total{route="/rerank",status="429"}') == 1


def test_a_queue_that_takes_too_long_is_503_at_once(reranker):
    gate = Gate(reranker)
    made = service(gate, patience=0.5)
    with running(made) as client, ThreadPoolExecutor(4) as pool:
        made._batcher._speed = 10.0  # tokens a second, as a slow model has shown
        gate.open.clear()
        first = pool.submit(client.post, "/rerank", bad())
        gate.entered.acquire()
        second = pool.submit(client.post, "/rerank", bad())
        until(lambda: client.metric("inranker_queue_requests") == 1)
        status, answer = client.post("/rerank", bad())
        assert status == 503 and "the queue is longer than 0.5 s" in answer["message"]
        gate.open.set()
        assert first.result()[0] == 200 and second.result()[0] in (200, 503)


def test_one_request_s_trouble_is_its_own(reranker):
    gate = Gate(reranker)
    gate.trouble = "poison"
    with running(service(gate)) as client, ThreadPoolExecutor(4) as pool:
        gate.open.clear()
        first = pool.submit(client.post, "/rerank", bad())
        gate.entered.acquire()
        asked = [pool.submit(client.post, "/rerank", bad(documents=[each])) for each in ("fine", "poison", "well")]
        until(lambda: client.metric("inranker_queue_requests") == 3)
        gate.open.set()
        statuses = [each.result()[0] for each in (first, *asked)]
        assert statuses == [200, 200, 500, 200]
        assert "poison" not in asked[1].result()[1]["message"]


def test_what_a_client_no_longer_waits_for_is_not_scored(reranker):
    gate = Gate(reranker)
    with running(service(gate)) as client, ThreadPoolExecutor(4) as pool:
        gate.open.clear()
        first = pool.submit(client.post, "/rerank", bad())
        gate.entered.acquire()
        host, port = client.url.removeprefix("http://").split(":")
        body = json.dumps(bad(documents=["a"])).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
            until(lambda: client.metric("inranker_queue_requests") == 1)
        until(lambda: client.metric('inranker_requests_total{route="/rerank",status="499"}') == 1)
        gate.open.set()
        assert first.result()[0] == 200 and client.post("/rerank", bad())[0] == 200
    assert gate.calls == [5, 5]


def test_what_is_under_way_is_answered_when_the_server_ends(reranker):
    gate = Gate(reranker)
    with ThreadPoolExecutor(4) as pool:
        with running(service(gate)) as client:
            gate.open.clear()
            asked = [pool.submit(client.post, "/rerank", bad())]
            gate.entered.acquire()
            asked.append(pool.submit(client.post, "/rerank", bad()))
            until(lambda: client.metric("inranker_queue_requests") == 1)
            pool.submit(lambda: threading.Event().wait(0.5) or gate.open.set())
        assert [each.result()[0] for each in asked] == [200, 200]


def test_probabilities_of_any_margin_are_in_order_and_finite():
    found = bodies.probabilities(np.array([-800.0, -40.0, 0.0, 40.0, 800.0]))
    assert found.tolist()[2] == 0.5 and 0 <= found[0] < found[1] < 1e-16 and found[4] == 1.0


def test_health_says_what_serves(client: Client):
    status, found = client.get("/health")
    assert status == 200 and found["serves"] == "models:/toy/3" and found["status"] == "ok"
    assert client.get("/info")[1]["model_id"] == "toy"
    assert client.metric('inranker_model_version{alias="champion",reference="models:/toy/3"}') == 1


def test_passages_under_two_names_are_refused_and_tensors_too(client):
    status, found = client.post("/rerank", {"query": QUERY, "documents": PASSAGES, "texts": PASSAGES[:1]})
    assert status == 422 and "both are given" in found["message"]
    tensors = [{"name": name, "data": ["moon"]} for name in ("query", "passages", "passages")]
    status, found = client.post("/v2/models/toy/infer", {"inputs": tensors})
    assert status == 422 and "two tensors are called 'passages'" in found["message"]
    tensors = [{"name": name, "data": ["moon"], "shape": [10**400]} for name in ("query", "passages")]
    status, found = client.post("/v2/models/toy/infer", {"inputs": tensors})
    assert status == 422 and len(found["message"]) < 100


def test_a_body_with_a_byte_order_mark_is_read(client):
    body = json.dumps({"query": QUERY, "documents": PASSAGES}).encode()
    assert client.post("/rerank", b"\xef\xbb\xbf" + body)[0] == 200


def test_a_client_that_hangs_up_within_its_body_is_no_failure_of_the_model(client, caplog):
    host, port = client.url.removeprefix("http://").split(":")
    count = 'inranker_requests_total{route="/rerank",status="499"}'
    before = client.metric(count)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    until(lambda: client.metric(count) == before + 1)
    assert "a request failed" not in caplog.text
