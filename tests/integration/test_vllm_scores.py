"""A teacher behind the real vLLM, on a CPU, gives the scores of the same checkpoint loaded here. Run by `make integration`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.config.sections import ScoringConfig, Teacher, TeacherConfig
from inranker_flow.config.server import ServerConfig
from inranker_flow.preflight.teachers import check_teachers
from inranker_flow.stages.teacher_label import teacher_label
from tests import models, teachers
from tests.refusals import refuses
from tests.servers import free_ports, running
from tests.unit.test_labelling import DOCUMENTS, PAIRS, QUERIES, read

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A random cross-encoder with one label, whose heads are as wide as vLLM's kernels for CPUs want them."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = teachers.unigram()
    path = tmp_path_factory.mktemp("ranker")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = XLMRobertaConfig(
            vocab_size=len(tokenizer), num_labels=1, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=514, type_vocab_size=1, initializer_range=0.2,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        XLMRobertaForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def url(vllm_python, checkpoint, tmp_path_factory) -> Iterator[str]:
    """A vLLM server of it, by the name `ranker`."""
    (port,) = free_ports(1)
    command = [vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += ["--served-model-name", "ranker", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--runner", "pooling"]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    address = f"http://127.0.0.1:{port}"
    log = tmp_path_factory.mktemp("vllm") / "log"
    with running(command, log, f"{address}/health", seconds=400, **environment):
        yield address


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("local")
    return label(folder, TeacherConfig(checkpoint, scoring=ScoringConfig(dtype="float32")))[1]


def label(folder: Path, config: TeacherConfig):
    collection = models.collection(folder / "collection", DOCUMENTS)
    stats = teacher_label(config, collection, models.candidates(folder / "pairs", QUERIES, PAIRS), folder / "labels")
    return stats, np.array([true - false for false, true in read(folder / "labels").values()])


def served(url: str, name: str = "ranker", **server) -> TeacherConfig:
    return TeacherConfig(
        name, backend="server", server=ServerConfig(endpoint=url, retries=1, request_pairs=5, **server)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"api": "score"},
        {"api": "score", "scores": "probability"},
        {"api": "rerank", "scores": "probability"},
        {"api": "rerank", "request_fields": {"use_activation": False}},
    ],
)
def test_the_scores_are_those_of_the_checkpoint(url, expected, tmp_path, settings):
    stats, found = label(tmp_path, served(url, **settings))
    assert np.ptp(expected) > 0.5, "the pairs differ"
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert stats.requests >= 5 and stats.tokens > 24 * 5


def test_what_it_refuses_is_told(url, tmp_path):
    assert "ranker is served at" in check_teachers(served(url))
    with refuses("server-refused", "other", "404"):
        check_teachers(served(url, "other"))
    with refuses("server-refused", "404", "teacher.server.endpoint"):
        check_teachers(served(f"{url}/v7"))
    both = TeacherConfig(
        teachers.encoder("bert"), also=(Teacher("ranker", backend="server", server=served(url).server),)
    )
    assert np.isfinite(label(tmp_path, both)[1]).all()
