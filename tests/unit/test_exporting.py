"""The stage `export` and its parts, on real small checkpoints of every kind and with the real runtimes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from inranker_flow import reading
from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.export import ExportConfig
from inranker_flow.config.sections import EvaluateConfig, PromoteConfig, ScoringConfig
from inranker_flow.evaluation.judged_sets import load
from inranker_flow.exporting import comparison, record, variants
from inranker_flow.exporting.backends import load_exported
from inranker_flow.exporting.loading import graph_of
from inranker_flow.exporting.workshop import Workshop
from inranker_flow.model_registry import stored_files
from inranker_flow.rankers.loading import load_ranker
from inranker_flow.serving import backends as serving
from inranker_flow.stages.export import export
from tests import models, promoting, starts
from tests.refusals import refuses

KINDS = ("t5", "bert", "roberta", "deberta", "electra", "modernbert", "llama")
#: Of one row and of many, short and cut, with letters that no vocabulary has.
PAIRS = [
    (query, " ".join(models.WORDS.split()[start : start + words]))
    for query in ("grow bread", "how long does it take to grow a lemon tree", "")
    for start, words in ((0, 1), (3, 17), (9, 70), (12, 0), (20, 5))
] + [("moon 月", "石 stone <pad> </s> [SEP]")]
CONFIG = EvaluateConfig(measures=("nDCG@10",), latency_queries=2)


@cache
def made(kind: str) -> tuple[Path, Workshop, np.ndarray]:
    """A student's folder, the workshop of its variants, and its scores of ``PAIRS``."""
    student = Path(starts.student(kind))
    scoring = reading.scoring_of(student, ScoringConfig(dtype="float32"))
    workshop = Workshop(graph_of(str(student), scoring), models.folder() / f"variants-{kind}", PAIRS)
    workshop.folder.mkdir()
    return student, workshop, load_ranker(str(student), scoring).score(PAIRS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_logits_of_the_checkpoint_for_any_batch_and_length(kind):
    _, workshop, expected = made(kind)
    assert workshop.fault("onnx") == ""
    ranker = workshop.ranker("onnx", 1)
    assert np.abs(ranker.score(PAIRS) - expected).max() < 1e-4
    # One pair alone, and all in one batch, whatever was traced.
    assert np.abs(ranker.score(PAIRS[1:2]) - expected[1:2]).max() < 1e-4
    ranker.batches.tokens = 10**6
    assert np.abs(ranker.score(PAIRS) - expected).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_computes_the_first_token_alone_where_the_head_reads_that(kind):
    """Its scores are held above: the same as the checkpoint's. Here: that the cut begins at the last layer's input."""
    import onnx

    _, workshop, _ = made(kind)
    assert workshop.fault("onnx") == ""
    nodes = onnx.load(str(workshop.folder / "onnx" / "model.onnx")).graph.node
    cut = [node.input[0] for node in nodes if node.op_type == "Slice" and "/first" in node.output[0]]
    assert bool(cut) == (kind not in ("t5", "llama"))
    if kind in ("bert", "roberta", "electra"):
        [begins] = [each for each in cut if "layer.0" in each]  # of two layers
        assert begins.endswith("layer.0/output/LayerNorm/LayerNormalization_output_0") and len(cut) == 2


@pytest.mark.parametrize("untied", [False, True])
def test_both_forms_of_t5_are_exported_in_closed_form(untied, tmp_path):
    import onnx

    reference = models.t5(seed=3, untied=untied)
    workshop = Workshop(graph_of(reference, ScoringConfig(max_length=64)), tmp_path, PAIRS)
    assert workshop.fault("onnx") == ""
    expected = load_ranker(reference, ScoringConfig(max_length=64, forward="reference")).score(PAIRS)
    assert np.abs(workshop.ranker("onnx", 1).score(PAIRS) - expected).max() < 1e-4
    # The table of embeddings is there once, for the encoder: no output layer of the whole vocabulary.
    graph = onnx.load(tmp_path / "onnx" / "model.onnx").graph
    rows = workshop.graph.reader.tokenizer.vocab_size
    assert sum(rows in each.dims for each in graph.initializer) == 1


@pytest.mark.parametrize("kind", ["t5", "bert", "llama"])
def test_eight_bits_are_close_and_smaller(kind):
    _, workshop, expected = made(kind)
    assert workshop.fault("onnx-int8") == ""
    scores = comparison.margins(workshop.ranker("onnx-int8", 1), PAIRS)
    found = comparison.agreement(scores, expected[:, 1] - expected[:, 0])
    assert found["spearman"] > 0.9 and found["largest_difference"] > 0
    sizes = [(workshop.folder / variants.VARIANTS[name].path).stat().st_size for name in ("onnx", "onnx-int8")]
    assert sizes[1] < 0.7 * sizes[0]


def test_an_encoder_is_calibrated_on_the_pairs_of_the_job():
    _, workshop, expected = made("bert")
    assert workshop.fault("onnx-int8-static") == ""
    scores = comparison.margins(workshop.ranker("onnx-int8-static", 1), PAIRS)
    assert comparison.agreement(scores, expected[:, 1] - expected[:, 0])["spearman"] > 0.9
    assert made("t5")[1].fault("onnx-int8-static") == "it is for encoders"


@pytest.mark.parametrize("kind", ["t5", "bert", "llama"])
def test_openvino_gives_the_same_logits(kind):
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    _, workshop, expected = made(kind)
    assert workshop.fault("openvino") == ""
    assert np.abs(workshop.ranker("openvino", 1).score(PAIRS) - expected).max() < 1e-4


def test_a_library_that_is_not_there_is_named(monkeypatch, tmp_path):
    _, whole, _ = made("bert")
    # An environment without the package would be a second one for this test alone: both are installed here.
    monkeypatch.setattr("inranker_flow.exporting.workshop.find_spec", lambda name: None if name == "openvino" else 1)
    workshop = Workshop(whole.graph, tmp_path, PAIRS)
    assert workshop.fault("openvino") == "openvino not installed here (the extra `openvino`)"
    assert workshop.fault("onnx") == ""
    monkeypatch.setattr("inranker_flow.exporting.workshop.find_spec", lambda name: None if name == "onnx" else 1)
    assert Workshop(whole.graph, tmp_path, PAIRS).fault("onnx-int8") == "onnx not installed here (the extra `export`)"


def test_agreement_tells_scores_that_are_not_the_checkpoint_s():
    reference = np.array([3.0, 1.0, 2.0])
    assert comparison.agreement(reference, reference) == {"largest_difference": 0.0, "spearman": 1.0}
    assert comparison.agreement(reference * 2, reference)["spearman"] == pytest.approx(1)
    assert comparison.agreement(-reference, reference)["spearman"] == pytest.approx(-1)
    for broken in (np.array([np.nan, 1.0, 2.0]), np.zeros(3)):
        assert comparison.agreement(broken, reference)["spearman"] == 0


# --- the stage ----------------------------------------------------------------------------------------------------------


@cache
def job() -> tuple[Path, Path]:
    """A collection with judged test queries, and their candidates."""
    words, root = models.WORDS.split(), models.folder() / "export-job"
    documents = {f"d{place}": " ".join(words[place : place + 3 + place % 7]) for place in range(30)}
    queries = {f"q{place}": f"{words[place]} {words[place + 5]}" for place in range(12)}
    collection = models.collection(
        root / "collection", documents, {key: ("test", text) for key, text in queries.items()}
    )
    models._write(tables.QRELS, collection, [(f"q{place}", f"d{place}", 1) for place in range(12)])
    write_manifest(collection, dataset="toy", stage="prepare_corpus")
    candidates = models.candidates(root / "candidates", {}, [])
    ranked = [
        (f"q{place}", f"d{(place + rank) % 30}", rank + 1, float(-rank)) for place in range(12) for rank in range(20)
    ]
    models._write(tables.RUN, candidates, ranked)
    write_manifest(candidates, dataset="toy", stage="retrieve")
    return collection, candidates


def exported(tmp_path: Path, kind: str, **settings: object) -> tuple[dict, Path]:
    student, _, _ = made(kind)
    write_manifest(student, dataset="toy", stage="distill_phase2")
    config = ExportConfig(**{"pairs": 100, "latency_queries": 1, **settings})
    export(config, CONFIG, student, [job()[0]], [job()[1]], tmp_path / "exported")
    return json.loads((tmp_path / "exported" / record.FILENAME).read_text()), tmp_path / "exported"


def test_the_stage_writes_variants_that_agree_and_what_was_measured(tmp_path):
    found, folder = exported(tmp_path, "bert", variants=("onnx", "onnx-int8"), min_agreement=0.5)
    assert list(found["variants"]) == ["onnx", "onnx-int8"] and found["left_out"] == {}
    assert (found["queries"], found["pairs"], found["timed"], found["measure"]) == (5, 100, 1, "nDCG@10")
    whole = found["variants"]["onnx"]
    assert whole["files"] == ["onnx/model.onnx"] and whole["spearman"] > 0.999999
    assert whole["mean"] == found["checkpoint"]["mean"]
    assert whole["size_mb"] == (folder / "onnx/model.onnx").stat().st_size / 1e6
    assert whole["latency"]["one"]["p95_ms"] > 0
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        "manifest.json", "model.onnx", "model_quantized.onnx", "variants.json",
    ]  # fmt: skip
    # A model's folder with the files beside it is served by the same code.
    student, _, expected = made("bert")
    served = models.folder() / "served"
    shutil.copytree(student, served)
    shutil.copytree(folder, served, dirs_exist_ok=True)
    assert np.abs(load_exported(served, "onnx", ScoringConfig()).score(PAIRS) - expected).max() < 1e-4
    with refuses("not-found", "openvino/openvino_model.xml", "onnx, onnx-int8"):
        load_exported(served, "openvino", ScoringConfig())


def test_a_server_loads_a_variant_by_name_and_the_best_by_what_was_measured(tmp_path):
    found, folder = exported(tmp_path, "bert", variants=("onnx", "onnx-int8"), min_agreement=0.5)
    student, _, expected = made("bert")
    served = models.folder() / "best"
    shutil.copytree(student, served)
    shutil.copytree(folder, served, dirs_exist_ok=True)
    margins = np.diff(np.asarray(expected))[:, 0]
    loaded = serving.loader("onnx")(str(served), 0)
    assert (loaded.dtype, serving.loader("onnx-int8")(str(served), 0).dtype) == ("float32", "int8")
    assert np.abs(loaded.score(PAIRS) - margins).max() < 1e-4
    for name in ("torch", "onnx", "onnx-int8"):
        each = {"torch": found["checkpoint"], **found["variants"]}[name]
        before, each["latency"]["all"]["p50_ms"] = each["latency"]["all"]["p50_ms"], 1e-6
        (served / record.FILENAME).write_text(json.dumps(found))
        best, same = (serving.loader(kind)(str(served), 0) for kind in ("best", name))
        assert (best.dtype, best.score(PAIRS).tolist()) == (same.dtype, same.score(PAIRS).tolist())
        each["latency"]["all"]["p50_ms"] = before
    with refuses("not-found", "openvino/openvino_model.xml"):
        serving.loader("openvino")(str(served), 0)
    with refuses("setting-value", "torch, onnx"):
        serving.loader("tensorrt")


def test_a_variant_that_differs_too_much_is_left_out_and_named(tmp_path, monkeypatch):
    def damaged(sources: variants.Sources, path: Path) -> None:
        import onnx
        from onnx import numpy_helper

        model = onnx.load(str(sources.folder / "onnx/model.onnx"))
        for weight in model.graph.initializer:
            if len(weight.dims) == 2:
                values = np.random.default_rng(0).permuted(numpy_helper.to_array(weight).copy())
                weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(path))

    row = variants.VARIANTS["onnx-int8"]
    monkeypatch.setitem(variants.VARIANTS, "onnx-int8", dataclasses.replace(row, make=damaged))
    found, folder = exported(tmp_path, "bert", variants=("onnx", "onnx-int8"))
    assert list(found["variants"]) == ["onnx"]
    assert "Spearman" in found["left_out"]["onnx-int8"] and "0.99" in found["left_out"]["onnx-int8"]
    assert [path.name for path in (folder / "onnx").iterdir()] == ["model.onnx"]


def test_a_variant_that_cannot_be_made_is_left_out_and_the_others_are_there(tmp_path, monkeypatch):
    def fails(sources: variants.Sources, path: Path) -> None:
        raise RuntimeError("no such\noperator")

    row = variants.VARIANTS["onnx-int8"]
    monkeypatch.setitem(variants.VARIANTS, "onnx-int8", dataclasses.replace(row, make=fails))
    found, _ = exported(tmp_path, "t5", variants=("onnx", "onnx-int8", "onnx-int8-static"))
    assert list(found["variants"]) == ["onnx"]
    assert found["left_out"] == {
        "onnx-int8": "could not be made: no such operator",
        "onnx-int8-static": "it is for encoders",
    }


def test_none_is_made_where_none_is_asked_for_or_nothing_can_be_compared(tmp_path):
    found, folder = exported(tmp_path, "bert", variants=())
    assert found == {"variants": {}, "left_out": {}} and record.rows(found) == []
    unjudged = models.collection(tmp_path / "unjudged", {"d": "bread"})
    candidates = models.candidates(tmp_path / "candidates", {}, [])
    student, _, _ = made("bert")
    stats = export(ExportConfig(variants=("onnx",)), CONFIG, student, [unjudged], [candidates], folder)
    assert (stats.variants, stats.left_out) == (0, 1)
    assert record.read(folder)["left_out"] == {"onnx": "no judged or held-out queries to compare it on"}


def test_the_sample_holds_whole_lists_of_queries_and_their_measure():
    judged = load("toy", *job(), CONFIG)
    assert judged is not None
    found = comparison.sample([judged], 60, "nDCG@10", 0)
    assert found.queries == 3 and len(found.pairs) == 60 and found.timed == []
    [few] = found.sets
    wanted = set(few.qrels)
    assert found.pairs == [
        pair for pair, query in zip(judged.pairs, judged.run.column("query_id").to_pylist(), strict=True) if query in wanted
    ]  # fmt: skip
    # By the first stage's own order every query's answer is the first.
    assert found.mean(-few.run.column("rank").to_numpy().astype(float)) == 1
    assert found.mean(few.run.column("rank").to_numpy().astype(float)) == 0


def test_the_budgets_are_about_the_variant_that_serves():
    found = {"variants": {"onnx": {"size_mb": 3.0, "latency": {"all": {"p95_ms": 7.0}}}}}
    assert record.served(found, "onnx") == {"size_mb": 3.0, "latency_p95_ms": 7.0}
    assert record.served(found, "openvino") == {} and record.served({}, "onnx") == {}


# --- the registry -------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path, monkeypatch):
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")  # put back at the end
    promoting.use_database(tmp_path)
    yield
    mlflow.set_tracking_uri(None)


def test_variants_lie_beside_the_registered_model_and_in_its_card_and_page(database, tmp_path):
    _, folder = exported(tmp_path, "bert", variants=("onnx", "onnx-int8-static"), min_agreement=0.5)
    student = promoting.student(tmp_path / "student", seed=1)
    evaluation = promoting.evaluation(tmp_path / "evaluation", bm25=0.2, phase2=0.6)
    promoting.promote("inranker", student, evaluation, exported=folder)
    served = stored_files.fetch("models:/inranker@champion")
    assert (served / "onnx" / "model.onnx").read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()
    assert record.read(served) == record.read(folder)
    assert "| onnx-int8-static | `onnx/model_qint8_static.onnx` |" in (served / "README.md").read_text()
    page = (tmp_path / "evaluation.html").read_text()
    assert "Variants for serving" in page and "<th>onnx-int8-static</th>" in page


@pytest.mark.parametrize(
    ("size", "variant", "verdict", "code"),
    [
        (0.001, "onnx", "REJECT", "size_budget"),
        (1000.0, "onnx", "PROMOTE", "gain"),
        (1000.0, "openvino", "HOLD", "size_not_measured"),
    ],
)
def test_the_gate_holds_the_budget_against_the_variant_that_serves(size, variant, verdict, code, database, tmp_path):
    _, folder = exported(tmp_path, "bert", variants=("onnx",))
    evaluation = promoting.evaluation(tmp_path / "evaluation", bm25=0.2, phase2=0.6)
    policy = PromoteConfig(model_name="inranker", size_budget_mb=size, variant=variant)
    found = promoting.promote(
        "inranker", promoting.student(tmp_path / "student", seed=1), evaluation, policy=policy, exported=folder
    )
    assert found.verdict == verdict
    assert promoting.reasons(evaluation)[0]["code"] == code
