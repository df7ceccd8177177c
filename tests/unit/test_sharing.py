"""Several pods at one piece of work: the same labels and queries as one pod's, bit for bit, whoever is lost on the way."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, TeacherConfig
from inranker_flow.environment import variables
from inranker_flow.errors import UserError
from inranker_flow.generation.backends.transformers import TransformersBackend
from inranker_flow.scoring.logits import Logits
from inranker_flow.stages.generate_queries import generate_queries, help_generate
from inranker_flow.stages.teacher_label import help_label, teacher_label
from inranker_flow.storage import uris
from inranker_flow.store import sharing
from inranker_flow.store.sharing import Share
from tests import forked, models

NOUNS = [word for word in models.WORDS.split() if word.isalpha()][20:]
DOCUMENTS = {
    f"d{i}": " ".join(NOUNS[(i + k * (1 + i % 5)) % len(NOUNS)] for k in range(1 + i * 7 % 23)) for i in range(60)
}
QUERIES = {f"q{i}": f"where is the {NOUNS[i]}" for i in range(12)}
PAIRS = [(f"q{i}", f"d{(5 * i + k) % 60}") for i in range(12) for k in range(10)]
TEACHER = TeacherConfig("", shard_pairs=7)
#: Drawn at random, so that whoever wrote a document with another seed would show.
GENERATION = GenerateConfig(
    "", backend="transformers", prompt="document", documents=60, shard_documents=6, temperature=1.0, max_new_tokens=8,
    batch_size=4, seed=3, max_unusable=1.0, min_query_words=0, queries_per_document=2,
)  # fmt: skip
CORPUS = CorpusConfig(uri="", name="toy")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "store"


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


def label(inputs, tmp_path, monkeypatch, workers: int, numbers: list[int], name: str) -> str:
    """The labels' digest with so many pods, of which those with ``numbers`` work first, one after another."""
    monkeypatch.setenv(variables.WORKERS, str(workers))
    config = replace(TEACHER, checkpoint=models.t5())
    for number in numbers:
        help_label(config, *inputs, number)
    teacher_label(config, *inputs, tmp_path / name)
    return read_manifest(tmp_path / name).content


def write(collection, tmp_path, monkeypatch, workers: int, numbers: list[int], name: str) -> str:
    monkeypatch.setenv(variables.WORKERS, str(workers))
    config = replace(GENERATION, checkpoint=models.t5())
    for number in numbers:
        help_generate(config, collection, CORPUS, number)
    generate_queries(config, collection, tmp_path / name)
    return read_manifest(tmp_path / name).content


def test_every_pod_takes_every_shard_its_own_first():
    shards = [(number, f"shard {number}") for number in range(10)]
    orders = [list(Share(number, 4).in_turn(shards)) for number in range(4)]
    assert all(sorted(order) == shards for order in orders)
    assert [[number for number, _ in order[:2]] for order in orders] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert list(Share().in_turn(shards)) == shards


def test_labels_are_the_same_bits_with_one_pod_and_with_many(inputs, tmp_path, monkeypatch, store):
    alone = label(inputs, tmp_path, monkeypatch, 1, [], "alone")
    uris.local_path(str(store)).rename(tmp_path / "first")
    assert label(inputs, tmp_path, monkeypatch, 3, [2, 1], "many") == alone


def test_a_pod_begins_with_its_share_and_helps_with_the_rest(inputs, tmp_path, monkeypatch):
    kept = []
    keep = Logits.keep

    def noted(self, tasks, logits):
        kept.append(set(tasks.tolist()))
        keep(self, tasks, logits)
        if len(kept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setenv(variables.WORKERS, "4")
    config = replace(TEACHER, checkpoint=models.t5())
    with monkeypatch.context() as patched:
        patched.setattr(Logits, "keep", noted)
        for number in (1, 2):
            kept.clear()
            with pytest.raises(KeyboardInterrupt):
                help_label(config, *inputs, number)
            assert len(set().union(*kept)) == 21, "shares are disjoint: whoever comes second scores nothing again"
    assert help_label(config, *inputs, 3).pairs == len(PAIRS) - 42, (
        "what lost pods have done is there, the rest is done"
    )
    assert teacher_label(config, *inputs, tmp_path / "labels").tokens == 0


def test_queries_are_the_same_with_one_pod_and_with_many(inputs, tmp_path, monkeypatch, store):
    alone = write(inputs[0], tmp_path, monkeypatch, 1, [], "alone")
    uris.local_path(str(store)).rename(tmp_path / "first")
    assert write(inputs[0], tmp_path, monkeypatch, 3, [2, 1], "many") == alone
    assert not list((store / "queries" / "plans").iterdir()), "the plan goes when the artifact is written"


def test_a_lost_generation_pod_changes_no_text(inputs, tmp_path, monkeypatch, store):
    alone = write(inputs[0], tmp_path, monkeypatch, 1, [], "alone")
    uris.local_path(str(store)).rename(tmp_path / "first")
    inner, calls = TransformersBackend.generate, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setenv(variables.WORKERS, "3")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TransformersBackend, "generate", dies)
        help_generate(replace(GENERATION, checkpoint=models.t5()), inputs[0], CORPUS, 1)
    assert len(calls) == 3
    assert write(inputs[0], tmp_path, monkeypatch, 3, [2], "many") == alone


@pytest.mark.parametrize("count", ["", "many", "1", "-3"])
def test_a_number_of_pods_that_cannot_be(count, monkeypatch):
    monkeypatch.setenv(variables.WORKERS, count)
    with pytest.raises(
        UserError, match=r"INRANKER_WORKERS: .* is no number of pods above 1; compile the pipeline anew"
    ):
        sharing.of_this_pod(1)


def test_without_a_store_to_share_it_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv(variables.WORKERS, "2")
    monkeypatch.setenv("INRANKER_STORE", "off")
    with pytest.raises(
        UserError, match=r"cluster.workers: 2 pods share their work through INRANKER_STORE, which is off"
    ):
        teacher_label(replace(TEACHER, checkpoint=models.t5()), *inputs, tmp_path / "labels")


#: A stage as a pod's process runs it: the function's module and name, then its arguments as JSON.
POD = """
import importlib, json, sys
from pathlib import Path
from inranker_flow.config.parsing import parse
from inranker_flow.config.sections import CorpusConfig, GenerateConfig, TeacherConfig
module, name, kind, config, *rest = sys.argv[1:]
given = [Path(each) if "/" in each else int(each) for each in rest]
kind = {"label": TeacherConfig, "generate": GenerateConfig}[kind]
function = getattr(importlib.import_module(module), name)
config = parse(kind, json.loads(config), "config")
if name == "help_generate":
    given.insert(1, CorpusConfig(uri="", name="toy"))
function(config, *given)
"""


def pod(tmp_path: Path, kind: str, stage: str, config: dict, *given: object) -> forked.Script:
    """A process with scratch of its own, as another machine has."""
    module = {"label": "inranker_flow.stages.teacher_label", "generate": "inranker_flow.stages.generate_queries"}[kind]
    scratch = tmp_path / f"scratch-{time.monotonic_ns()}"
    environment = {variables.WORKERS: "3", "INRANKER_SCRATCH": str(scratch), "OMP_NUM_THREADS": "1"}
    return forked.start(POD, module, stage, kind, json.dumps(config), *given, **environment)


def wait_for_files(folder: Path, process: forked.Script) -> None:
    """Until something is in the store, or the process has ended (then all is there)."""
    while not list(folder.rglob("*.parquet")) and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["label", "generate"])
def test_three_processes_at_once_of_which_one_is_killed_give_what_one_gives(inputs, tmp_path, monkeypatch, store, kind):
    if kind == "label":
        alone = label(inputs, tmp_path, monkeypatch, 1, [], "alone")
        names, config, given = ("teacher_label", "help_label"), TEACHER, inputs
    else:
        alone = write(inputs[0], tmp_path, monkeypatch, 1, [], "alone")
        names, config, given = ("generate_queries", "help_generate"), GENERATION, inputs[:1]
    store.rename(tmp_path / "first")
    from inranker_flow.config.parsing import as_dict

    plain = as_dict(replace(config, checkpoint=models.t5()))
    lost = pod(tmp_path, kind, names[1], plain, *given, 1)
    wait_for_files(store, lost)
    lost.kill()
    assert lost.wait() != 0, "it was killed in the middle of its work"
    both = [
        pod(tmp_path, kind, names[0], plain, *given, tmp_path / "shared"),
        pod(tmp_path, kind, names[1], plain, *given, 2),
    ]
    assert [each.wait() for each in both] == [0, 0]
    assert read_manifest(tmp_path / "shared").content == alone
