"""What query generation adds: to a plain load tool (the endpoint's backend), and to a bare `LLM.generate` (vLLM's); and what
the backend `transformers` saves by reading once what all prompts begin with.

    .venv/bin/python -m benchmarks.generate endpoint            # needs `ab` (apache2-utils); no model, no GPU
    $(scripts/vllm-cpu .venv/bin/python) -m benchmarks.generate vllm --model FOLDER --collection FOLDER
    .venv/bin/python -m benchmarks.generate beginning --model FOLDER --collection FOLDER

Rounds of both sides alternate, so that a busy machine is busy for both; ratios are those of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from inranker_flow.config.sections import GenerateConfig
from inranker_flow.generation import prompts

CONCURRENCY = 64
DELAY = 0.05
ANSWER = {
    "choices": [{"index": 0, "text": " how long does a sourdough starter take", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 8},
}


def endpoint(requests: int, rounds: int) -> None:
    """Requests per second of the backend `openai` and of ApacheBench, at an endpoint that answers in 50 ms."""
    from inranker_flow.generation.backends.openai import OpenAIBackend

    if not shutil.which("ab"):
        sys.exit("FAILED: no `ab` here, the load tool of the comparison; install apache2-utils")
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        config = GenerateConfig("model", backend="openai", endpoint=f"{url}/v1", concurrency=CONCURRENCY)
        backend = OpenAIBackend(config, prompts.load("inpars-v1"))
        documents = [f"passage {number} " + "of some words that say something " * 25 for number in range(requests)]
        body = json.dumps(backend._request(documents[0], 1, 0))

        def ours() -> float:
            start = time.monotonic()
            written = backend.generate(documents, 1, lambda count: None)
            assert len(written.texts) == requests and all(texts[0] for texts in written.texts)
            return requests / (time.monotonic() - start)

        rates = _rounds(rounds, {"backend openai": ours, "ab": lambda: _ab(f"{url}/v1/completions", body, requests)})
    finally:
        server.kill()
    ideal = CONCURRENCY / DELAY
    for name, rate in rates.items():
        print(f"{name:16} {rate:7.0f} requests/s   {rate / ideal:.0%} of {ideal:.0f}")
    print(f"ratio            {rates['backend openai'] / rates['ab']:.2f}")


def _ab(url: str, body: str, requests: int) -> float:
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(body)
        file.flush()
        command = [
            "ab",
            "-q",
            "-k",
            "-c",
            str(CONCURRENCY),
            "-n",
            str(requests),
            "-T",
            "application/json",
            "-p",
            file.name,
            url,
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests per second:\s+(\S+)", told)
    assert found and "Failed requests:        0" in told, told
    return float(found[1])


async def _serve() -> None:
    """An endpoint without a model: whatever is posted is answered 50 ms later."""

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.held = transport, b""

        def data_received(self, data: bytes) -> None:
            self.held += data
            while (end := self.held.find(b"\r\n\r\n")) >= 0:
                head = self.held[:end].lower()
                length = re.search(rb"content-length: *(\d+)", head)
                size = end + 4 + (int(length[1]) if length else 0)
                if len(self.held) < size:
                    return
                self.held = self.held[size:]
                known = head.startswith(b"get") and b"/models" in head
                answer = json.dumps({"data": [{"id": "model"}]} if known else ANSWER).encode()
                # ab speaks HTTP/1.0 and wants to be told that the connection stays.
                lines = f"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: {len(answer)}\r\n\r\n"
                asyncio.get_running_loop().call_later(
                    0 if known else DELAY, self.transport.write, lines.encode() + answer
                )

    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def vllm(model: str, collection: Path, documents: int, rounds: int) -> None:
    """Seconds of the stage (without loading the model) and of `LLM.generate` over the same prompts."""
    from vllm import SamplingParams

    from inranker_flow.generation import backends
    from inranker_flow.generation.backends.vllm import VllmBackend
    from inranker_flow.generation.documents import sample
    from inranker_flow.stages.generate_queries import generate_queries

    config = GenerateConfig(model, backend="vllm", documents=documents, max_document_tokens=128, max_new_tokens=32)
    backend = VllmBackend(config, prompts.load(config.prompt))
    ids, _ = backend.prompter.fit([each.text for each in sample(config, collection).documents])
    sampling = SamplingParams(temperature=0.0, max_tokens=config.max_new_tokens, stop=["\n"])

    def bare() -> float:
        backend.llm.reset_prefix_cache()
        start = time.monotonic()
        backend.llm.generate([{"prompt_token_ids": each} for each in ids], sampling, use_tqdm=False)
        return time.monotonic() - start

    def stage() -> float:
        backend.llm.reset_prefix_cache()
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(backends, "load_backend", lambda *_: backend):
            start = time.monotonic()
            generate_queries(config, collection, Path(folder) / "queries", Path(folder) / "report.md")
            return time.monotonic() - start

    for warm in (bare, stage):
        warm()
    seconds = _rounds(rounds, {"LLM.generate": bare, "the stage": stage})
    for name, each in seconds.items():
        print(f"{name:16} {each:7.2f} s   {documents / each:.0f} documents/s")
    print(f"ratio            {seconds['the stage'] / seconds['LLM.generate']:.3f}")


def beginning(model: str, collection: Path, documents: int, rounds: int) -> None:
    """CPU seconds of a query with the prompts' common beginning read once, and in each prompt."""
    import torch

    from inranker_flow.generation.backends.transformers import TransformersBackend
    from inranker_flow.generation.documents import sample

    torch.set_num_threads(1)  # CPU seconds of threads that wait for each other tell nothing
    config = GenerateConfig(model, documents=documents, max_document_tokens=128, max_new_tokens=32, dtype="float32")
    backend = TransformersBackend(config, prompts.load(config.prompt))
    texts = [each.text for each in sample(config, collection).documents]
    known, written = backend.known, set()
    assert known, f"{model}: nothing that can be read once"

    def side(held: Any) -> Callable[[], float]:
        def write() -> float:
            backend.known = held
            start = time.process_time()
            written.add(str(backend.generate(texts, 0, lambda count: None).texts))
            return (time.process_time() - start) / documents

        return write

    seconds = _rounds(rounds, {"in each prompt": side(None), "once": side(known)})
    for name, each in seconds.items():
        print(f"{name:16} {each:7.2f} CPU seconds a query")
    same = "the same texts" if len(written) == 1 else "OTHER TEXTS"
    print(f"ratio            {seconds['in each prompt'] / seconds['once']:.2f}, {len(known.ids)} tokens, {same}")


def _rounds(count: int, sides: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each side, in turns; the side that begins alternates."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count):
        for name in sorted(sides, reverse=bool(number % 2)):
            found[name].append(sides[name]())
            print(f"  round {number + 1}: {name} {found[name][-1]:.2f}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["endpoint", "vllm", "beginning", "serve"])
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="")
    parser.add_argument("--collection", type=Path, help="folder that prepare_corpus wrote")
    parser.add_argument("--documents", type=int, default=1_000)
    options = parser.parse_args()
    if options.what == "serve":
        asyncio.run(_serve())
    elif options.what == "endpoint":
        endpoint(options.requests, options.rounds)
    elif options.what == "beginning":
        beginning(options.model, options.collection, options.documents, options.rounds)
    else:
        vllm(options.model, options.collection, options.documents, options.rounds)


if __name__ == "__main__":
    main()
