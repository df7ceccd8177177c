"""Answers of servers with OpenAI's API that differ in form, or that are none: what is read, and what ends in one line."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.services import endpoint
from inranker_flow.services.endpoint import Address, Endpoint
from inranker_flow.stages.generate_queries import generate_queries
from tests import models
from tests.http_server import Answer, HttpServer
from tests.models import read_queries

DOCUMENTS = {f"d{number}": f"passage number {number} is about the moon" for number in range(4)}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST", 0.01)  # the real pauses, shorter: else each test waits for seconds


def asked(tmp_path, answer: Callable[[int], Any], **changes: Any) -> list[str]:
    """The queries from a server whose ``answer`` is that to a request of this number."""
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    numbers = iter(range(1000))

    def respond(request):
        if not request.path.endswith("completions"):
            return Answer(200, {"data": [{"id": "writer"}]})
        found = answer(next(numbers))
        return found if isinstance(found, Answer) else Answer(200, found)

    with HttpServer() as server:
        server.answer = respond
        settings = {"checkpoint": "writer", "backend": "openai", "prompt": "document", "concurrency": 1, "retries": 1}
        config = GenerateConfig(**{**settings, "endpoint": server.url, "min_query_words": 1, **changes})
        generate_queries(config, collection, tmp_path / "queries")
    return [row["text"] for row in read_queries(tmp_path / "queries")]


def completion(number: int, **changes: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": f"where is {number}", **changes}], "usage": {"completion_tokens": 3}}


def chat(content: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: {"choices": [{"text": f"where is {n}"}]},
        lambda n: completion(n, index=None),
        lambda n: {**completion(n), "usage": [1]},
        lambda n: {**completion(n), "usage": {"completion_tokens": "many"}},
        lambda n: json.dumps({**completion(n), "usage": {"completion_tokens": float("inf")}}).encode(),
        lambda n: b"\xef\xbb\xbf" + json.dumps(completion(n)).encode(),
        lambda n: {"choices": []} if n == 2 else completion(n),
        lambda n: {"error": {"message": "overloaded"}} if n == 2 else completion(n),
    ],
)
def test_answers_of_other_forms_are_read(tmp_path, answer):
    assert len(asked(tmp_path, answer)) == 4


@pytest.mark.parametrize(
    "content",
    [
        lambda n: [f"where is {n}"],
        lambda n: [{"type": "output_text", "text": f"where is {n}"}],
        lambda n: [{"type": "reasoning", "text": None}, {"type": "text", "text": f"where is {n}"}],
    ],
)
def test_messages_in_parts_of_other_forms_are_read(tmp_path, content):
    assert len(asked(tmp_path, lambda number: chat(content(number)), prompt="instruct")) == 4


def test_half_a_pair_of_surrogates_is_written_as_one_unknown_letter(tmp_path):
    found = asked(tmp_path, lambda n: b'{"choices": [{"index": 0, "text": "where \\ud800 %d"}]}' % n)
    assert len(found) == 4 and all("\ufffd" in each for each in found)


@pytest.mark.parametrize(
    ("answer", "changes", "message"),
    [
        (lambda n: completion(n, text=5), {}, "a int as its text"),
        (lambda n: chat({"text": "where"}), {"prompt": "instruct"}, "a dict as its text"),
        (lambda n: {"choices": []}, {}, "an answer without texts"),
        (lambda n: {"error": {"message": "the model is asleep"}}, {}, "the model is asleep"),
        (lambda n: {"choices": [*completion(n)["choices"]] * 2}, {}, "2 texts where n=1 .*request_fields"),
        *(
            (lambda n, found=found: completion(n, logprobs=found), {"keep_probable": 2}, "leaves out the log-prob")
            for found in (
                [-0.5], -0.5, True, {"token_logprobs": ["-0.5"]}, {"token_logprobs": [float("nan")]}, {"content": ["a"]},
                {"token_logprobs": {"a": -1}}, {"tokens": ["a"], "top_logprobs": [{"a": -0.5}]}, {"token_logprobs": [None]},
            )
        ),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_ends_in_one_line_and_writes_nothing(tmp_path, answer, changes, message):
    with pytest.raises(UserError, match=message) as refused:
        asked(tmp_path, answer, **changes)
    assert "\n" not in str(refused.value) and not (tmp_path / "queries").exists()


@pytest.mark.parametrize("form", ["token_logprobs", "content"])
@pytest.mark.parametrize("prompt", ["document", "instruct"])
def test_log_probabilities_of_either_form_are_those_of_both_routes(tmp_path, form, prompt):
    def answer(number):
        value = -abs(number - 3) / 10  # the third document's is the most probable
        found = {"token_logprobs": [value]} if form == "token_logprobs" else {"content": [{"logprob": value}]}
        said = completion(number, logprobs=found)
        said["choices"][0]["message"] = {"content": f"where is {number}"}
        return said

    assert asked(tmp_path, answer, prompt=prompt, keep_probable=1) == ["where is 3"]


@contextmanager
def dripping(pause: float) -> Iterator[str]:
    """A server that sends a byte of its answer, and then another, and does not end."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(10_000)
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while not ended.wait(pause):
                        connection.sendall(b" ")
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_a_server_that_drips_its_answer_holds_no_request():
    with dripping(0.02) as url:
        address = Address(
            url=url, setting="generation.endpoint", variable="OPENAI_API_KEY", form="http://HOST:PORT", route="x",
            concurrency=1, timeout=0.3, retries=1,
        )  # fmt: skip
        start = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer in time, and so 2 times"):
            Endpoint(address).post("x", {}, lambda answer: answer)
    assert time.monotonic() - start < 60, "its whole answer would take half an hour"
