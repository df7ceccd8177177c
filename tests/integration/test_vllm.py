"""Query generation and a judge with the real vLLM, on a CPU: a server that is killed, and the offline batch. Run by
`make integration`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.parsing import as_dict
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, PrepareConfig
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.judging.grading import Judge, Pair
from inranker_flow.stages.generate_queries import generate_queries
from inranker_flow.stages.prepare_corpus import prepare_corpus
from tests import models
from tests.servers import free_ports, running

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

ROOT = Path(__file__).parents[2]
#: What the offline batch is given to do, in vLLM's own environment: arguments are configuration, collection and output.
OFFLINE = """
import json, sys
from pathlib import Path
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import GenerateConfig
from inranker_flow.stages.generate_queries import generate_queries
if __name__ == "__main__":
    config = parse(GenerateConfig, json.loads(sys.argv[1]), "generation")
    generate_queries(config, Path(sys.argv[2]), Path(sys.argv[3]))
"""
#: The same of a judge, asked twice: arguments are its configuration, the pairs, and the file for grades and stats.
GRADES = """
import dataclasses, json, sys
from pathlib import Path
from inranker_flow.config.language_model import JudgeConfig
from inranker_flow.config.parsing import parse
from inranker_flow.judging.grading import Judge, Pair
if __name__ == "__main__":
    told = []
    for _ in range(2):
        judge = Judge(parse(JudgeConfig, json.loads(sys.argv[1]), "judge"))
        grades, stats = judge.grade([Pair(*each) for each in json.loads(sys.argv[2])], "vaswani")
        told.append([grades.to_pylist(), dataclasses.asdict(stats)])
    Path(sys.argv[3]).write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "INRANKER_SCRATCH": str(tmp_path_factory.mktemp("scratch")),
    }  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    """vaswani where the real data is, else the demo's target."""
    real = models.DATA / "collections" / "vaswani"
    uri = str(real) if real.is_dir() else "demo:target/1"
    folder = tmp_path_factory.mktemp("collection") / "c"
    prepare_corpus(PrepareConfig(on_problem="repair"), CorpusConfig(uri=uri, name="vaswani"), folder)
    return folder


@pytest.fixture(scope="module")
def model(collection, tmp_path_factory) -> str:
    """A random Llama of 130 thousand parameters and a tokenizer trained on the corpus, with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(kinds.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(tables.read(tables.CORPUS, collection).column("text").to_pylist()[:2000], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    settings = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 1024}
    path = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **settings, **ids)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def judge_model(model, tmp_path_factory) -> str:
    """The same with a head that knows the digits from 0 to 3 alone: whatever it has read, it mostly answers one of them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, judge = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    digits = tokenizer.convert_tokens_to_ids(list("0123"))
    with torch.no_grad():
        known = judge.lm_head.weight[digits].clone()
        judge.lm_head.weight.zero_()[digits] = known
    path = tmp_path_factory.mktemp("judge")
    judge.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@contextlib.contextmanager
def serving(python: str, model: str, folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """(address, process id) of a vLLM server of ``model`` by the name `tiny`."""
    (port,) = free_ports(1)
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill"]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder / f"vllm-{port}.log", f"{url}/health", seconds=240, **environment) as process:
        yield url, process


def served(url: str) -> int:
    """Requests that the server has finished, by its own count."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = re.findall(r"^vllm:request_success_total\{.*?\} (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(sum(map(float, lines)))


def config(**changes):
    """200 documents with log-probabilities, greedy: what comes must not depend on who else is served."""
    settings = {
        "prompt": "inpars-v1", "documents": 200, "max_document_tokens": 96, "max_new_tokens": 16, "keep_probable": 150,
        "shard_documents": 25, "dtype": "float32", "seed": 1,
    }  # fmt: skip
    return GenerateConfig(**{**settings, **changes})


def through(url: str, model: str, **changes):
    """Through the server, whose tokenizer is given so that documents are cut as they are in the process."""
    settings = {
        "checkpoint": "tiny",
        "backend": "openai",
        "endpoint": f"{url}/v1",
        "tokenizer": model,
        "concurrency": 16,
    }
    return config(**{**settings, "retries": 2, **changes})


def queries(folder: Path) -> dict[str, str]:
    return {row["query_id"]: row["text"] for row in tables.read(tables.QUERIES, folder).to_pylist()}


def test_a_real_server_is_killed_and_the_offline_batch_writes_the_same(
    vllm_python, environment, collection, model, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("INRANKER_SCRATCH", environment["INRANKER_SCRATCH"])
    with serving(vllm_python, model, tmp_path, environment) as (url, process):
        whole = generate_queries(through(url, model), collection, tmp_path / "whole")
        assert (whole.documents, whole.generated, whole.queries) == (200, 200, 150) and whole.tokens > 1000
        assert served(url) == 201, "one for each document, and one to see what the server can"
        with pytest.raises(UserError, match=r"serves tiny and not large; set generation\.checkpoint"):
            generate_queries(through(url, model, checkpoint="large"), collection, tmp_path / "none")

        chat = through(
            url, model, prompt="instruct", documents=5, keep_probable=3, queries_per_document=2, temperature=0.8
        )
        assert generate_queries(chat, collection, tmp_path / "chat").generated == 10
        first = queries(tmp_path / "chat")
        generate_queries(chat, collection, tmp_path / "chat")
        assert queries(tmp_path / "chat") == first, "sampled, and the same for the same seed"

        # A document that exceeds the server's context, where nobody cut it before.
        long = models.collection(tmp_path / "long", {"long": "word " * 3000, "short": "a word"})
        stats = generate_queries(
            through(url, model, tokenizer="", max_document_tokens=9_999, keep_probable=0), long, tmp_path / "cut"
        )
        assert (stats.documents, stats.cut_documents) == (2, 1)

        # Another seed draws other documents, so all of it is asked anew; then the server dies in the middle.
        before, killer = served(url), threading.Thread(target=_kill_after, args=(url, process, served(url) + 80))
        killer.start()
        with pytest.raises(NoAnswer, match=r"(nobody answers there|the connection broke), and so 3 times"):
            generate_queries(through(url, model, seed=2), collection, tmp_path / "killed")
        killer.join()
        assert before and "asking again" in caplog.text and not (tmp_path / "killed").exists()

    with serving(vllm_python, model, tmp_path, environment) as (url, _):
        stats = generate_queries(through(url, model, seed=2), collection, tmp_path / "killed")
        asked = served(url)
        assert stats.resumed_documents >= 75 and stats.resumed_documents % 25 == 0
        assert asked == 200 - stats.resumed_documents + 1, "what was missing, and one to see what the server can"
        again = generate_queries(through(url, model, seed=2), collection, tmp_path / "undisturbed")
        assert again.resumed_documents == 0 and queries(tmp_path / "killed") == queries(tmp_path / "undisturbed")

    offline = config(checkpoint=model, backend="vllm")
    done = subprocess.run(
        [vllm_python, "-c", OFFLINE, json.dumps(as_dict(offline)), str(collection), str(tmp_path / "offline")],
        env={**os.environ, **environment}, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    details = read_manifest(tmp_path / "offline").details
    assert details["versions"]["vllm"] and details["counts"]["queries"] == 150
    plain = generate_queries(config(checkpoint=model), collection, tmp_path / "plain")
    assert plain.generated == 200
    # The same model, three ways: the same queries, and the same of them are probable. transformers' attention differs in the
    # last digits, and where a random model's two best tokens are that near it goes another way.
    there = queries(tmp_path / "whole")
    for name, least in (("offline", 0.95), ("plain", 0.7)):
        other = queries(tmp_path / name)
        same = sum(other.get(query_id) == text for query_id, text in there.items())
        assert same >= least * len(there), (name, same, len(there))


def test_a_judge_in_this_process_grades_as_transformers_does_and_is_asked_once(
    vllm_python, environment, collection, judge_model, tmp_path, monkeypatch
):
    rows = tables.read(tables.CORPUS, collection).slice(0, 60).to_pylist()
    pairs = [Pair(f"q{at % 6}", row["doc_id"], rows[at % 6]["text"][:60], row["text"]) for at, row in enumerate(rows)]
    judge = JudgeConfig(checkpoint=judge_model, dtype="float32", max_passage_tokens=64, max_new_tokens=1)

    told = json.dumps(as_dict(dataclasses.replace(judge, backend="vllm")))
    done = subprocess.run(
        [vllm_python, "-c", GRADES, told, json.dumps(pairs), str(tmp_path / "grades.json")], capture_output=True, text=True,
        env={**os.environ, **environment, "INRANKER_STORE": str(tmp_path / "store")}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (grades, stats), (again, found) = json.loads((tmp_path / "grades.json").read_text())
    offline = {row["doc_id"]: row["grade"] for row in grades}
    assert stats["pairs"] == 60 and stats["calls"] >= 60 and stats["graded"] == len(offline) >= 40
    assert len(set(offline.values())) > 1 and set(offline.values()) <= {0, 1, 2, 3}
    assert (again, found["calls"], found["found"]) == (grades, 0, 60), "the store has every answer"

    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "plain"))
    monkeypatch.setenv("INRANKER_SCRATCH", environment["INRANKER_SCRATCH"])
    grades, _ = Judge(judge).grade(pairs, "vaswani")
    plain = {row["doc_id"]: row["grade"] for row in grades.to_pylist()}
    assert sum(offline.get(doc_id) == grade for doc_id, grade in plain.items()) >= 0.9 * len(plain)


def _kill_after(url: str, process: int, requests: int) -> None:
    while served(url) < requests:
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
