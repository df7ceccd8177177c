"""Queries from a server with OpenAI's API, over real connections: what goes wrong on the way, and what must not."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.environment import variables
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.generation import prompts
from inranker_flow.generation.backends import load_backend
from inranker_flow.services import endpoint
from inranker_flow.stages.generate_queries import generate_queries
from tests import models
from tests.generation_server import GenerationServer, prompt_of, written
from tests.models import read_queries as read
from tests.models import told
from tests.refusals import refuses

DOCUMENTS = {f"d{i:03}": f"passage number {i} is about the moon" for i in range(60)}


def config(server, **changes):
    defaults = {
        "checkpoint": "writer",
        "backend": "openai",
        "endpoint": f"{server.url}/v1",
        "prompt": "document",
        "concurrency": 8,
        "request_timeout": 5.0,
        "retries": 2,
        "shard_documents": 10,
        "seed": 3,
    }
    return GenerateConfig(**{**defaults, **changes})


@pytest.fixture
def collection(tmp_path):
    return models.collection(tmp_path / "collection", DOCUMENTS)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "_FIRST", 0.02)
    monkeypatch.delenv(variables.ENDPOINT_KEY, raising=False)


def test_every_document_gets_its_own_queries(collection, tmp_path):
    with GenerationServer() as server:
        setting = config(server, queries_per_document=2, temperature=0.7, top_p=0.9, max_new_tokens=20)
        stats = generate_queries(setting, collection, tmp_path / "queries")
    assert (stats.documents, stats.generated, stats.queries, stats.tokens) == (60, 120, 120, 240)
    asked = {prompt_of(each): each for each in server.generating()}
    assert set(asked) == set(DOCUMENTS.values()) and len({each["seed"] for each in asked.values()}) == 60
    first = asked[DOCUMENTS["d007"]]
    assert {key: first[key] for key in ("model", "n", "temperature", "top_p", "max_tokens", "stop")} == {
        "model": "writer", "n": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 20, "stop": ["\n"],
    }  # fmt: skip
    assert "logprobs" not in first, "they cost time where nobody needs them"
    by_id = {row["query_id"]: row["text"] for row in read(tmp_path / "queries")}
    assert by_id["d007#q1"] == written(DOCUMENTS["d007"], first["seed"], 1)[0].strip()
    details = read_manifest(tmp_path / "queries").details
    assert details["backend"] == "openai" and details["sampling"]["temperature"] == 0.7
    assert details["versions"] == {"server": "1.2.3", "server_root": "/models/w", "server_max_model_len": "512"}


def test_a_flaky_server_loses_no_document(tmp_path):
    documents = {f"d{i:03}": f"passage number {i}" for i in range(300)}
    collection = models.collection(tmp_path / "collection", documents)

    def trouble(number):  # 5% errors, 5% silence, 1% answers that end early
        return {7: 500, 13: "silence"}.get(number % 20) or ("half" if number % 100 == 50 else None)

    with GenerationServer(trouble=trouble, silence=0.6) as server:
        setting = config(server, request_timeout=0.3, retries=8, concurrency=16, shard_documents=100)
        stats = generate_queries(setting, collection, tmp_path / "flaky")
    assert stats.queries == 300 and 330 < len(server.generating()) < 400
    with GenerationServer() as steady:
        generate_queries(config(steady, shard_documents=100), collection, tmp_path / "steady")
    assert read(tmp_path / "flaky") == read(tmp_path / "steady")
    assert told(tmp_path / "flaky") == told(tmp_path / "steady")


def test_a_server_that_dies_is_said_and_the_next_run_asks_for_the_rest_alone(collection, tmp_path, caplog):
    with (
        GenerationServer(trouble=lambda number: 503 if number > 35 else None) as server,
        pytest.raises(NoAnswer) as failed,
    ):
        generate_queries(config(server), collection, tmp_path / "queries")
    assert "HTTP 503 trouble, on purpose, and so 3 times" in str(failed.value) and "\n" not in str(failed.value)
    assert not (tmp_path / "queries").exists()
    assert any("asking again" in each.message for each in caplog.records)
    last = [prompt_of(each) for each in server.requests[36:]]
    assert max(map(last.count, last)) == 3, "one request and two more"
    with GenerationServer() as server:
        stats = generate_queries(config(server), collection, tmp_path / "queries")
        generate_queries(config(server, seed=3, concurrency=1), collection, tmp_path / "undisturbed")
    # Three shards of ten were finished: thirty are left, and nothing is asked twice. (The first is the question
    # what the server can.)
    assert stats.resumed_documents == 30 and len(server.generating()) == 30 + 60
    assert read(tmp_path / "queries") == read(tmp_path / "undisturbed")
    assert told(tmp_path / "queries") == told(tmp_path / "undisturbed")


def test_a_server_that_is_not_there(collection, tmp_path):
    with GenerationServer() as server:
        pass
    with pytest.raises(NoAnswer, match=r"127\.0\.0\.1:\d+/v1: nobody answers there, and so 3 times"):
        generate_queries(config(server), collection, tmp_path / "queries")


def test_no_more_requests_are_under_way_than_allowed(collection, tmp_path):
    with GenerationServer(delay=0.03) as server:
        generate_queries(config(server, concurrency=5), collection, tmp_path / "queries")
    assert server.most_at_once == 5


def test_a_pause_that_the_server_asks_for_is_kept(collection, tmp_path):
    with GenerationServer(trouble=lambda n: 429 if n == 1 else None, headers={"Retry-After": "0.7"}) as server:
        start = time.monotonic()
        assert generate_queries(config(server, documents=1), collection, tmp_path / "queries").queries == 1
    assert time.monotonic() - start >= 0.7 and len(server.generating()) == 2
    assert endpoint._asked_pause("Wed, 21 Oct 2199 07:28:00 GMT") == endpoint._MOST_ASKED
    assert endpoint._asked_pause("soon") == endpoint._asked_pause("-3") == 0


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        (
            {},
            {"checkpoint": "other"},
            r"serves writer and not other; set generation\.checkpoint to the name of a served",
        ),
        (
            {"trouble": lambda n: 404},
            {},
            r"HTTP 404 trouble, on purpose; generation\.endpoint must be the address before",
        ),
        ({"trouble": lambda n: 422}, {}, r"HTTP 422 trouble, on purpose; change the setting that it names"),
        ({"trouble": lambda n: 307}, {}, r"HTTP 307 .*the address that it redirects to"),
        ({"logprobs": False}, {"keep_probable": 5}, r"leaves out the log-probabilities that generation\.keep_probable"),
        ({"context": 0}, {}, r"maximum context length is 0 tokens"),
    ],
)
def test_a_refusal_is_one_line_before_anything_is_generated(collection, tmp_path, options, changes, message):
    with GenerationServer(**options) as server, pytest.raises(UserError, match=message) as refused:
        generate_queries(config(server, **changes), collection, tmp_path / "queries")
    assert "\n" not in str(refused.value) and not server.generating() and not (tmp_path / "queries").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", r"generation\.endpoint: missing"),
        ("localhost:8000", r"is not of the form http://HOST:PORT/v1"),
        ("ftp://x/v1", r"is not of the form"),
        ("http://me:secret@host/v1", r"an address with a password in it"),
    ],
)
def test_an_address_that_is_none(collection, tmp_path, address, message):
    setting = GenerateConfig(checkpoint="writer", backend="openai", endpoint=address, prompt="document")
    with pytest.raises(UserError, match=message) as refused:
        generate_queries(setting, collection, tmp_path / "queries")
    assert "secret" not in str(refused.value)


def test_the_key_is_sent_and_never_told(collection, tmp_path, monkeypatch, caplog):
    with GenerationServer(key="sesame-123") as server:
        for wrong in ("", "wrong-456"):
            monkeypatch.setenv(variables.ENDPOINT_KEY, wrong)
            with pytest.raises(UserError, match=r"HTTP 401 Incorrect API key provided; set OPENAI_API_KEY") as refused:
                generate_queries(config(server), collection, tmp_path / "queries")
            assert "456" not in str(refused.value)
        monkeypatch.setenv(variables.ENDPOINT_KEY, "sesame-123")
        assert generate_queries(config(server), collection, tmp_path / "queries").queries == 60
    told = caplog.text + (tmp_path / "queries" / "manifest.json").read_text()
    assert "sesame" not in told and "456" not in told


def test_the_most_probable_queries_are_kept(collection, tmp_path):
    with GenerationServer() as server:
        stats = generate_queries(config(server, keep_probable=7), collection, tmp_path / "queries")
        assert {each["logprobs"] for each in server.requests} == {1}
        seeds = {prompt_of(each): each["seed"] for each in server.generating()}
        # Chat models give them in another form.
        chat = config(server, keep_probable=7, prompt="instruct")
        assert generate_queries(chat, collection, tmp_path / "chat").improbable == 53
    assert (stats.generated, stats.queries, stats.improbable) == (60, 7, 53)
    means = {doc_id: sum(written(text, seeds[text], 0)[1]) / 2 for doc_id, text in DOCUMENTS.items()}
    kept = {row["source_doc_id"] for row in read(tmp_path / "queries")}
    assert min(means[doc_id] for doc_id in kept) >= max(means[doc_id] for doc_id in set(DOCUMENTS) - kept)


def test_a_chat_prompt_is_a_chat(collection, tmp_path):
    with GenerationServer() as server:
        generate_queries(config(server, prompt="instruct"), collection, tmp_path / "queries")
    assert set(server.routes) == {"/v1/chat/completions"}
    asked = server.generating()[0]
    assert [each["role"] for each in asked["messages"]] == ["system", "user"] and "stop" not in asked
    assert "passage number" in asked["messages"][1]["content"]
    texts = {row["source_doc_id"]: row["text"] for row in read(tmp_path / "queries")}
    messages = {prompt_of(each): each["seed"] for each in server.generating()}
    content, seed = next((text, seed) for text, seed in messages.items() if DOCUMENTS["d031"] in text)
    assert texts["d031"] == written(content, seed, 0)[0].strip(), "without thoughts and quotes"


def test_a_document_that_the_server_finds_too_long_is_cut_and_counted(tmp_path):
    documents = {"long": "moon " * 100, "longer": "river " * 400, "short": "a stone"}
    collection = models.collection(tmp_path / "collection", documents)
    with GenerationServer(context=40) as server:
        stats = generate_queries(config(server, max_document_tokens=5_000), collection, tmp_path / "queries")
        assert (stats.queries, stats.cut_documents) == (3, 2)
        taken = [prompt_of(each).split() for each in server.generating() if len(prompt_of(each).split()) <= 40]
        assert sorted(map(len, taken))[0] == 2 and min(map(len, taken[1:])) > 20, "no more than needed is cut"
        # Without the served model's tokenizer a token counts as four characters ...
        generate_queries(config(server, max_document_tokens=10), collection, tmp_path / "short")
        assert max(len(prompt_of(each)) for each in server.generating()[-3:]) <= 40
        # ... and with it the cut is the one that the tokenizer makes.
        exact = config(server, max_document_tokens=10, tokenizer=str(models.tokenizer_folder()))
        cut = load_backend(exact, prompts.load("document")).cut(list(documents.values()), 10)
    assert cut == ["moon " * 9 + "moon", "river " * 9 + "river", "a stone"]


def test_it_needs_no_torch(collection, tmp_path):
    program = (
        "import sys; from pathlib import Path; from inranker_flow.config.sections import GenerateConfig;"
        "from inranker_flow.stages.generate_queries import generate_queries;"
        "config = GenerateConfig('writer', backend='openai', endpoint=sys.argv[1], prompt='inpars-v1', documents=5);"
        "print(generate_queries(config, Path(sys.argv[2]), Path(sys.argv[3])).queries);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    with GenerationServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", program, server.url, str(collection), str(tmp_path / "queries")],
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "5", done.stderr


# --- fields of the user's own -----------------------------------------------------------------------------------------


def test_requests_carry_the_fields_that_are_asked_for(collection, tmp_path):
    fields = {
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": 20.0,
        "min_p": 0.05,
        "bad_words": ["a", None],
    }
    given = parse(GenerateConfig, {"checkpoint": "writer", "request_fields": fields}, "generation").request_fields
    with GenerationServer() as server:
        generate_queries(config(server, prompt="instruct", request_fields=given), collection, tmp_path / "queries")
    assert len(server.generating()) == 60
    for request in server.requests:  # the one that asks what the server can, too
        assert {key: request[key] for key in fields} == fields and isinstance(request["top_k"], int)
        assert request["model"] == "writer" and request["seed"] >= 0


def test_fields_are_part_of_what_a_text_depends_on(collection, tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    with GenerationServer() as server:
        for fields, resumed in (({}, 0), ({"top_k": 5}, 0), ({"top_k": 5}, 60), ({"top_k": 6}, 0), ({}, 60)):
            stats = generate_queries(config(server, request_fields=fields), collection, tmp_path / "queries")
            assert stats.resumed_documents == resumed, fields


@pytest.mark.parametrize(
    "name", ["model", "messages", "prompt", "n", "seed", "stop", "max_tokens", "logprobs", "stream"]
)
def test_fields_that_the_backend_sets_are_refused(collection, tmp_path, name):
    with (
        GenerationServer() as server,
        pytest.raises(UserError, match=rf"request_fields: {name} cannot be set") as refused,
    ):
        generate_queries(config(server, request_fields={name: 1, "top_k": 1}), collection, tmp_path / "queries")
    assert "\n" not in str(refused.value) and not server.requests


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, object(), {"a": [float("inf")]}])
def test_fields_that_json_cannot_say(value):
    with refuses("setting-type", "JSON"):
        parse(GenerateConfig, {"checkpoint": "w", "request_fields": {"x": value}}, "generation")


def test_answers_in_parts_and_answers_that_are_thoughts_alone(collection, tmp_path, monkeypatch):
    """Mistral's content is a list; vLLM's reasoning parsers put the thought elsewhere and leave the content null."""
    from inranker_flow.generation.backends.openai import OpenAIBackend

    inner = OpenAIBackend._read

    def in_parts(self, answer):
        for choice in answer["choices"]:
            text = choice["message"]["content"]
            parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": text}]
            choice["message"]["content"] = None if "0" in text[-9:] else parts
        return inner(self, answer)

    monkeypatch.setattr(OpenAIBackend, "_read", in_parts)
    with GenerationServer() as server:
        stats = generate_queries(config(server, prompt="instruct", max_unusable=1), collection, tmp_path / "queries")
    assert 0 < stats.empty < 60 and stats.queries == 60 - stats.empty
    assert all(row["text"].startswith("what about ") for row in read(tmp_path / "queries"))


def test_documents_without_blanks_are_cut_between_letters():
    from inranker_flow.generation.backends.openai import _first, _room

    chinese = "标题 " + "河流位于国家的北部" * 40
    assert _room(chinese, 50) < 60 and len(_first(chinese, _room(chinese, 50))) > 45
    assert _first("one two three", 9) == "one two" and _first("onetwothree", 4) == "onet"
    assert _room("plain words " * 100, 50) == 200
