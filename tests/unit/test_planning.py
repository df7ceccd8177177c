"""What a run will take: counted from bounded parts, with speeds that say where they come from, held against real stages."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from inranker_flow.commands.plan import with_corpora
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.errors import UserError
from inranker_flow.planning import counting, judge, models, parts, reality, speed
from inranker_flow.planning.counting import count
from inranker_flow.planning.planner import START_SECONDS, make_plan
from inranker_flow.planning.plans import Plan, Row, read_sentence, sentence_of
from inranker_flow.planning.speed import Sample, Speed
from inranker_flow.profiles import load
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.stages.retrieve import retrieve
from inranker_flow.storage import uris
from inranker_flow.tracking import connection
from inranker_flow.tracking.runs import DEVICE, stage_run
from tests import beir, starts
from tests.databases import new_database
from tests.models import causal as tiny_causal
from tests.models import stub_files
from tests.planning import by_size_alone

SAMPLE = Sample(["a question"], ["a passage"], 100.0, 12.0)


def counted(uri: str | Path, labels: str = "", **config) -> counting.Counted:
    return count(CorpusConfig(uri=str(uri), name="sample", labels=labels), PrepareConfig(**config))


def numbers(found: counting.Counted) -> tuple[int, ...]:
    return found.documents, found.train_queries, found.positives, found.test_queries, found.published


def many(folder: Path, documents: int, queries: int) -> Path:
    """A larger collection; each query has two judgements, one of them relevant."""
    rows = ({"_id": f"d{n}", "title": "", "text": "word " * (5 + n % 50)} for n in range(documents))
    asked = ({"_id": f"q{n}", "text": f"question {n}"} for n in range(queries))
    judged = [(f"q{n}", f"d{n + m}", m) for n in range(queries) for m in (0, 1)]
    return beir.write(folder, corpus=beir.jsonl(rows), queries=beir.jsonl(asked), train=beir.tsv(judged), test=None)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_a_small_folder_is_counted_exactly(tmp_path):
    found = counted(beir.write(tmp_path / "plain"))
    assert numbers(found) == (4, 2, 2, 1, 0) and not found.notes
    assert found.passages[1] == "Granite is a hard rock." and found.queries[0] == "hard rock"
    packed = beir.write(tmp_path / "packed", {"corpus.jsonl.gz": beir.jsonl(beir.CORPUS)}, corpus=None)
    assert numbers(counted(packed)) == (4, 2, 2, 1, 0)
    assert numbers(counted(tmp_path / "plain", max_train_queries=1, max_documents=3)) == (3, 1, 1, 1, 0)


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_of_large_files_parts_are_read_and_the_rest_is_estimated(tmp_path, monkeypatch, where, request):
    folder = str(many(tmp_path / "many", 20_000, 3_000))
    if where == "s3":
        prefix = request.getfixturevalue("s3")
        uris.upload(folder, f"{prefix}/many")
        folder = f"{prefix}/many"
    monkeypatch.setattr(parts, "PART", 2**14)
    monkeypatch.setattr(parts, "WHOLE", 2**15)
    read, read_part = [], uris.read_part
    monkeypatch.setattr(uris, "read_part", lambda uri, start, size: read.append(size) or read_part(uri, start, size))
    found = counted(folder)
    for estimate, truth in zip(numbers(found), (20_000, 3_000, 3_000), strict=False):
        assert abs(estimate / truth - 1) < 0.05, found
    assert sum(read) <= 3 * parts.PARTS * 2**14
    assert "counted from parts" in found.notes[0]


def test_a_large_gzip_file_is_estimated_from_its_beginning(tmp_path, monkeypatch):
    folder = many(tmp_path / "many", 20_000, 0)
    content = (folder / "corpus.jsonl").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "corpus.jsonl").unlink()
    monkeypatch.setattr(parts, "WHOLE", (folder / "corpus.jsonl.gz").stat().st_size // 4)
    monkeypatch.setattr(parts, "UNPACKED", len(content) // 8)
    assert abs(counted(folder).documents / 20_000 - 1) < 0.1


def test_parquet_is_counted_by_its_footers(tmp_path):
    prepare_corpus(PrepareConfig(), CorpusConfig(str(beir.write(tmp_path / "beir")), "sample"), tmp_path / "out")
    found = counted(tmp_path / "out")
    assert found.documents == 4 and found.test_queries == 1 and found.train_queries == 2
    assert counted(tmp_path / "out" / "corpus.parquet").documents == 4


def test_ir_datasets_are_counted_without_a_download(monkeypatch, tmp_path):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "nothing"))
    found = counted("ir_datasets:beir/nfcorpus/train")
    assert numbers(found) == (3_633, 2_590, 110_575, 0, 0) and found.passage_characters == 232 * counting.CHARACTERS
    assert "nothing downloaded" in found.notes[0]
    assert not [each for each in (tmp_path / "nothing").rglob("*") if each.is_file()]
    assert numbers(counted("ir_datasets:beir/scifact/test")) == (5_183, 0, 0, 300, 0)


def test_published_labels_are_counted(tmp_path):
    (tmp_path / "labels.tsv").write_text("1\t-1\tq1\td1\n" * 30)
    found = counted(beir.write(tmp_path / "beir"), labels=f"inranker-msmarco:{tmp_path / 'labels.tsv'}")
    assert found.published == 30
    row = {"query": "wet", "contents": "Rain falls.", "true_logit": 1.0, "false_logit": -1.0}
    (tmp_path / "file.jsonl").write_bytes(beir.jsonl([row] * 7))
    assert numbers(counted(f"inranker-beir:{tmp_path / 'file.jsonl'}")) == (7, 0, 0, 0, 7)


def test_what_cannot_be_counted_is_one_clear_line(tmp_path):
    for name, content in (("empty", b""), ("array", b"[1, 2]\n"), ("binary", bytes(range(256)))):
        beir.write(tmp_path / name, corpus=content)
    beir.write(tmp_path / "packed", corpus=None)
    (tmp_path / "packed" / "corpus.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for uri, said in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "empty", "no row of JSON"),
        (tmp_path / "array", "no row of JSON"),
        (tmp_path / "binary", "no row of JSON"),
        (tmp_path / "packed", "not a gzip file"),
        (tmp_path / "broken.parquet", "not a readable Parquet file"),
        ("ir_datasets:no/such", "knows no such id"),
        ("inranker-beir:hf://a/b/c.jsonl", "before it is downloaded"),
        (f"inranker-beir:{tmp_path}/none.jsonl", "no such file"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            counted(uri)
        assert str(caught.value).isprintable()


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def a_plan(name: str = "demo", speeds=None, device: str = "H100", price: float = 0.0, **settings) -> Plan:
    sections, _ = with_corpora("inranker", load(name, settings))
    return make_plan(sections, device, price, speeds or by_size_alone(device))


def row(plan: Plan, stage: str, collection: str = "") -> Row:
    return next(each for each in plan.rows if (each.stage, each.collection) == (stage, collection))


def test_the_demos_plan_is_what_its_stages_make(tmp_path):
    plan = a_plan()
    for name, uri in (("inns", "demo:source/1"), ("medicines", "demo:target/1")):
        made = prepare_corpus(PrepareConfig(), CorpusConfig(uri, name), tmp_path / name)
        assert row(plan, "prepare_corpus", name).documents == made.documents
    config = RetrieveConfig(depth=30, negatives=3, test_depth=30)
    found = retrieve(config, tmp_path / "inns", None, tmp_path / "candidates")
    assert row(plan, "teacher_label", "inns").pairs == found.pairs
    assert row(plan, "teacher_label", "medicines").pairs == 1_200 * 2 * (1 + 3)
    # What `make run` counts: 66,238 tokens of the source's prompts (seed 1).
    assert abs(row(plan, "teacher_label", "inns").tokens / 66_238 - 1) < 0.02
    assert row(plan, "distill_phase1").pairs == 300 * 128, "max_steps ends it"
    assert plan.total.documents == 2_400 and plan.total.pairs == 4_000 + 9_600


def test_hours_and_price_follow_from_the_speeds():
    def fast(work, section, sample):
        return Speed({"score": 1000.0, "generate": 10.0, "train": 100.0}[work], f"{work} as the test says")

    plan = a_plan(speeds=fast, price=2.0)
    labelled = row(plan, "teacher_label", "medicines")
    seconds = labelled.tokens / 1000 + START_SECONDS
    assert labelled.hours == pytest.approx(seconds / 3600) and plan.cost(labelled) == pytest.approx(seconds / 1800)
    assert row(plan, "generate_queries", "medicines").hours == pytest.approx((2_400 / 10 + 10) / 3600)
    assert row(plan, "distill_phase2").hours == pytest.approx((650 * 128 / 100 + 10) / 3600)
    assert plan.total.hours == pytest.approx(sum(each.hours for each in plan.rows))
    assert "train: train as the test says" in plan.notes
    unknown = a_plan(speeds=lambda work, section, sample: Speed(0.0, "nobody knows"), price=2.0)
    assert unknown.total.hours is None and unknown.cost(unknown.total) is None and "hours" not in unknown.promised


def test_every_teacher_costs_its_own_and_one_behind_a_server_no_hours_of_a_device():
    def speeds(work, section, sample):
        each = {"demo:teacher": 1000.0, "demo:student": 500.0}[section.checkpoint] if work == "score" else 10.0
        return Speed(each, f"{section.checkpoint} as the test says")

    one = row(a_plan(speeds=speeds), "teacher_label", "inns")
    both = row(a_plan(speeds=speeds, **{"teacher.also": [{"checkpoint": "demo:student"}]}), "teacher_label", "inns")
    assert both.tokens == 2 * one.tokens and both.pairs == one.pairs
    assert both.hours == pytest.approx((one.tokens / 1000 + one.tokens / 500 + 2 * START_SECONDS) / 3600)
    asked = {"checkpoint": "big", "backend": "server", "server": {"endpoint": "http://host:8000"}}
    plan = a_plan(speeds=speeds, **{"teacher.also": [asked]})
    third = row(plan, "teacher_label", "inns")
    assert third.hours == one.hours and third.tokens > one.tokens
    assert "score: big: asked at its server, whose time and price are not in the plan" in plan.notes
    alone = a_plan(speeds=speeds, **{f"teacher.{key}": value for key, value in asked.items()})
    assert row(alone, "teacher_label", "inns").hours == 0 and row(alone, "evaluate").hours > 0


def test_published_labels_cost_no_teacher(tmp_path):
    plan = a_plan("paper")
    source = row(plan, "teacher_label", "msmarco")
    assert (source.pairs, source.hours) == (0, 0.0) and source.stored > 0
    assert row(plan, "distill_phase1").pairs == 12_800_000
    assert row(plan, "teacher_label", "scifact").pairs == 5_183 * 10


def test_a_sentence_can_be_read_again():
    said = sentence_of({"queries": 1200, "pairs": 4_800_000, "tokens": 3.5e9, "hours": 0.25})
    assert said == "1,200 queries, 4,800,000 pairs, 3,500,000,000 tokens, 15 min"
    read = read_sentence(f"planned without reuse: {said}")
    assert read == {"queries": 1200, "pairs": 4_800_000, "tokens": 3.5e9, "hours": 0.25}
    assert read_sentence("a run of mine, of 3 corpora") == {}


# --- speeds -----------------------------------------------------------------------------------------------------------


def test_the_size_of_a_model_is_in_its_files_or_in_its_name():
    from safetensors import safe_open

    from inranker_flow.rankers.checkpoints import DEMO

    with safe_open(DEMO / "teacher" / "model.safetensors", "numpy") as file:
        truth = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert models.parameters("demo:teacher") == truth
    for name, millions in (
        ("castorini/monot5-3b-msmarco-10k", 2850), ("google-t5/t5-small", 60), ("EleutherAI/gpt-j-6b", 6050),
        ("Qwen/Qwen3-Reranker-0.6B", 600), ("BeIR/query-gen-msmarco-t5-base-v1", 220), ("someone/mystery-v2", 0),
    ):  # fmt: skip
        assert models.parameters(name) == millions * 1e6, name


def test_speeds_by_size_know_what_no_gpu_makes_faster():
    large, small = (speed.by_size("score", name, "H100", SAMPLE).each for name in ("x/t5-3b", "x/t5-small"))
    assert large == pytest.approx(0.4 * 989e12 / 2.85e9) and small == speed.MOST_TOKENS
    assert speed.by_size("train", "x/t5-small", "H100", SAMPLE, 32).each == pytest.approx(32 / speed.STEP_SECONDS)
    assert speed.by_size("score", "someone/mystery", "H100", SAMPLE).each == 0
    assert speed.short_name("NVIDIA A100-SXM4-80GB") == "A100" and speed.short_name("NVIDIA L40S") == "L40S"
    with pytest.raises(UserError, match="'A1000' is not in the table"):
        speed.check_device("A1000")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("castorini/monot5-base-msmarco", "monot5"), ("google-t5/t5-small", "monot5"), ("someone/mystery-v2", "monot5"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "encoder"), ("answerdotai/ModernBERT-base", "encoder"),
        ("FacebookAI/xlm-roberta-base", "encoder"), ("Qwen/Qwen3-0.6B", "causal"), ("HuggingFaceTB/SmolLM2-135M", "causal"),
        ("init:encoder-tiny", "encoder"), ("init:causal-tiny?seed=3", "causal"), ("init:tiny", "monot5"),
        ("demo:student", "monot5"),
    ],
)  # fmt: skip
def test_the_kind_of_a_model_is_known_without_its_weights(name, kind):
    assert models.kind_of(name) == kind


def test_a_config_says_the_kind_whatever_the_folder_is_called(tmp_path):
    stub_files(tmp_path / "my-t5", {"model_type": "bert", "architectures": ["BertModel"]})
    assert models.kind_of(str(tmp_path / "my-t5")) == "encoder"


def test_encoders_and_causal_models_read_with_all_weights_but_those_of_their_embeddings():
    """A T5 reads with its encoder, half of them."""
    t5, bert, qwen = (models.READING[models.kind_of(name)] for name in ("x/t5-base", "x/bert-base", "x/qwen3-0.6b"))
    assert (t5, bert, qwen) == (0.5, 1.0, 1.0)
    for name, of_t5 in (("x/bert-110m", "x/t5-110m"), ("x/qwen3-110m", "x/t5-110m")):
        for work in ("score", "train"):
            one, other = (speed.by_size(work, each, "cpu", SAMPLE, 32) for each in (name, of_t5))
            assert one.each == pytest.approx(other.each / 2) and "110 million weights" in one.how
    bert = starts.encoder("bert", layers=2)
    looked_up = json.loads((Path(bert) / "config.json").read_text())["vocab_size"] * 48
    assert models.computing(bert) == models.parameters(bert) - looked_up > 0
    assert models.parameters("microsoft/MiniLM-L12-H384-uncased") == 33e6
    assert (
        models.parameters("answerdotai/ModernBERT-base") == 150e6 != models.parameters("google-bert/bert-base-uncased")
    )


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "llama", "init-encoder"])
def test_the_tokens_of_a_students_prompts_are_those_of_its_reader(name):
    """Its marks or its template are counted, not a monoT5's."""
    from inranker_flow.config.sections import DistillConfig
    from inranker_flow.planning.planner import _tokenizer
    from inranker_flow.students.loading import load_student

    reference, kind = starts.ALL[name]()
    config = DistillConfig(checkpoint=reference, max_length=256)
    reader = load_student(reference, config).reader
    [length] = reader.prepare(["moon"], ["the river"], np.array([[0, 0]])).lengths
    texts = sum(
        len(reader.tokenizer(f" {each}", add_special_tokens=False)["input_ids"]) for each in ("moon", "the river")
    )
    reads = models.reading_of(config, reference)
    planned = models.around(reference, reads, _tokenizer(reference))
    assert (reads.kind, reads.max_length) == (kind, 256)
    assert planned == pytest.approx(length - texts, abs=0 if kind == "encoder" else 2)


@pytest.mark.parametrize("reference", ["init:encoder-tiny", "init:causal-tiny"])
def test_a_training_of_each_kind_is_measured(reference, monkeypatch, tmp_path):
    from inranker_flow.config.sections import DistillConfig

    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path))
    monkeypatch.setattr(speed, "AIM", 0.01)
    config = DistillConfig(checkpoint=reference, max_length=64, batch_size=8)
    found = speed.measure_training(config, SAMPLE, anyway=True)
    assert found.each > 0 and f"{reference}: measured here" in found.how


def test_earlier_runs_of_the_same_checkpoint_on_the_same_device_tell_their_speed(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"
    assert speed.by_history("score", "x/teacher", "H100", database) is None and not database.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_database(database))
    monkeypatch.setenv("INRANKER_ARTIFACT_ROOT", (tmp_path / "artifacts").as_uri())
    for device, rate in (("NVIDIA H100 80GB HBM3", 5000.0), ("NVIDIA H100 80GB HBM3", 6000.0), ("cpu", 7.0)):
        with stage_run("teacher_label", "sample") as run:
            run.log_config({"config": {"checkpoint": "x/teacher"}})
            run.log_metrics({"tokens_per_second": rate}, {})
            connection.client().set_tag(run.run_id, DEVICE, device)
    with stage_run("generate_queries", "sample") as run:
        run.log_config({"config": {"checkpoint": "x/generator"}})
        run.log_metrics({"tokens_per_second": 100.0, "tokens": 500.0, "generated": 50.0}, {})
        connection.client().set_tag(run.run_id, DEVICE, "cpu")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    found = speed.by_history("score", "x/teacher", "H100", database)
    assert found and found.each == 6000 and "as in MLflow's run" in found.how
    assert speed.by_history("score", "x/teacher", "A100", database) is None
    assert speed.by_history("score", "x/other", "H100", database) is None
    written = speed.by_history("generate", "x/generator", "cpu", database)
    assert written and (written.each, written.tokens) == (10.0, 10.0)
    assert "MLFLOW_TRACKING_URI" not in os.environ


# --- plan and reality -------------------------------------------------------------------------------------------------


def test_what_stages_did_is_summed_by_the_names_of_the_plan():
    reports = [
        ("teacher_label", "inns", {"pairs": 10, "tokens": 100, "seconds": 36.0}),
        ("teacher_label", "medicines", {"pairs": 5, "tokens": 50, "seconds": 36.0}),
        ("generate_queries", "medicines", {"queries": 7, "tokens": 999, "seconds": 72.0}),
        ("retrieve", "inns", {"pairs": 15, "seconds": 3600.0}),
    ]
    assert reality.done(reports) == {"queries": 7, "pairs": 15, "tokens": 150, "hours": pytest.approx(0.04)}


def test_what_was_found_done_is_not_counted_as_computed_and_every_gpu_is():
    reports = [
        ("teacher_label", "inns", {"pairs": 10, "tokens": 100, "seconds": 36.0, "reused": 1.0}),  # by the store
        (
            "teacher_label",
            "medicines",
            {"pairs": 400, "reused_pairs": 300, "tokens": 50, "seconds": 36.0, "devices": 4.0},
        ),
        ("generate_queries", "medicines", {"queries": 90, "documents": 50, "resumed_documents": 40, "seconds": 0.0}),
    ]
    assert reality.done(reports) == {"queries": 18, "pairs": 100, "tokens": 50, "hours": pytest.approx(0.04)}


def planned(stage: str, collection: str = "", **numbers: float | None) -> dict:
    return {"collection": collection, "stage": stage, "hours": 0.0, **numbers}


#: A source and two targets.
PLANNED = {
    "device": "H100", "price": 2.0,
    "rows": [
        planned("prepare_corpus", "inns", documents=100), planned("prepare_corpus", "medicines", documents=300),
        planned("prepare_corpus", "laws", documents=50),
        planned("teacher_label", "inns", pairs=1000, tokens=10_000, hours=1.0),
        planned("generate_queries", "medicines", queries=200, hours=0.5),
        planned("teacher_label", "medicines", pairs=3000, tokens=60_000, hours=3.0),
        planned("generate_queries", "laws", queries=40, hours=0.5),
        planned("teacher_label", "laws", pairs=500, tokens=5_000, hours=0.5),
        planned("distill_phase1", hours=2.0), planned("distill_phase2", hours=2.0), planned("evaluate", pairs=900, hours=0.5),
        planned("total", hours=10.0),
    ],
}  # fmt: skip
HOUR = 3600.0


def lines(plan: dict, reports: list, without: tuple[str, ...] = ()) -> dict[tuple[str, str], tuple]:
    """(stage, quantity) -> planned, real, share that was reused, ratio."""
    found = reality.compare(plan, reports, without)
    assert len({(each.stage, each.quantity) for each in found}) == len(found)
    return {(each.stage, each.quantity): (each.planned, each.real, each.reused, each.ratio) for each in found}


def test_a_plan_is_held_against_what_each_stage_did_and_what_was_reused_is_no_miss():
    found = lines(
        PLANNED,
        [
            ("prepare_corpus", "inns", {"documents": 110.0}),
            ("prepare_corpus", "medicines", {"documents": 310.0}),
            ("prepare_corpus", "laws", {"documents": 30.0}),
            ("retrieve", "medicines", {"pairs": 5000.0, "seconds": HOUR}),
            # The source: nothing, KFP's cache had it. One target: a quarter anew; the other: whole, out of the store.
            ("generate_queries", "medicines", {"queries": 180.0, "documents": 100.0, "seconds": HOUR}),
            (
                "teacher_label",
                "medicines",
                {"pairs": 2800.0, "reused_pairs": 2100.0, "tokens": 18_000.0, "seconds": HOUR},
            ),
            ("generate_queries", "laws", {"queries": 40.0, "documents": 20.0, "seconds": 1.0, "reused": 1.0}),
            ("teacher_label", "laws", {"pairs": 500.0, "tokens": 5_000.0, "seconds": 1.0, "reused": 1.0}),
            ("distill_phase2", "", {"pairs": 99.0, "steps": 10.0, "seconds": HOUR, "devices": 4.0}),
            ("evaluate", "", {"pairs": 900.0, "seconds": HOUR / 2}),
        ],
    )
    assert found == {
        ("prepare_corpus", "documents"): (450, 450, 0.0, 1.0),
        ("generate_queries", "queries"): (240, 180, pytest.approx(40 / 240), 0.9),
        ("generate_queries", "hours"): (1.0, 1.0, 0.5, 2.0),
        ("teacher_label", "pairs"): (4500, 700, pytest.approx(1 - 750 / 4500), pytest.approx(700 / 750)),
        ("teacher_label", "tokens"): (75_000, 18_000, pytest.approx(0.8), pytest.approx(1.2)),
        ("teacher_label", "hours"): (4.5, 1.0, pytest.approx(1 - 0.75 / 4.5), pytest.approx(1 / 0.75)),
        ("distill_phase1", "hours"): (2.0, 0.0, 1.0, None),
        ("distill_phase2", "hours"): (2.0, 4.0, 0.0, 2.0),
        ("evaluate", "pairs"): (900, 900, 0.0, 1.0),
        ("evaluate", "hours"): (0.5, 0.5, 0.0, 1.0),
        ("total", "hours"): (10.0, 6.5, pytest.approx(1 - 3.75 / 10), pytest.approx(6.5 / 3.75)),
        ("total", "price"): (20.0, 13.0, pytest.approx(1 - 3.75 / 10), pytest.approx(6.5 / 3.75)),
    }


def test_stored_bytes_are_those_of_the_tasks_that_ran():
    rows = [{**row, "stored": 1000} for row in PLANNED["rows"]]
    reports = [
        ("teacher_label", "medicines", {"pairs": 10.0, "stored_bytes": 900.0, "reused": 1.0}),  # written all the same
        ("distill_phase2", "medicines", {"steps": 9.0, "stored_bytes": 700.0}),
        ("promote", "", {"stored_bytes": 5.0}),
    ]
    assert lines({"rows": rows}, reports)["total", "stored"] == (11_000, 1600, pytest.approx(9 / 11), 0.8)
    assert lines({"rows": rows}, [])["total", "stored"] == (11_000, 0, 1.0, None)


def test_a_collection_that_was_set_aside_is_no_part_of_the_plan_then():
    assert reality.left_out(PLANNED, ["medicines", "laws"]) == [] and reality.left_out(PLANNED, ["laws"]) == [
        "medicines"
    ]
    reports = [("teacher_label", "inns", {"pairs": 1000.0, "tokens": 10_000.0, "seconds": HOUR})]
    found = lines(PLANNED, reports, ("medicines", "laws"))
    assert found["teacher_label", "pairs"] == (1000, 1000, 0.0, 1.0)
    assert found["total", "hours"][:2] == (5.5, 1.0) and ("generate_queries", "queries") not in found


def test_hours_that_no_plan_knew_are_shown_beside_nothing_and_reused_all_the_same():
    rows = [{**row, "hours": None} if row["hours"] else row for row in PLANNED["rows"]]
    found = lines({"price": 2.0, "rows": rows}, [("evaluate", "", {"pairs": 900.0, "seconds": HOUR})])
    assert found["evaluate", "hours"] == (None, 1.0, 0.0, None) and found["distill_phase2", "hours"] == (
        None,
        0.0,
        1.0,
        None,
    )
    assert found["total", "hours"] == (None, 1.0, None, None) and ("total", "price") not in found


def test_an_attempt_whose_pod_was_lost_after_its_work_hides_nothing():
    again = [
        ("distill_phase1", "inns", {"steps": 9.0, "seconds": 2 * HOUR}),
        ("distill_phase1", "inns", {"steps": 9.0, "seconds": 9.0, "reused": 1.0}),
    ]
    assert lines(PLANNED, again)["distill_phase1", "hours"] == (2.0, 2.0, 0.0, 1.0)


def test_totals_alone_are_compared_unless_something_was_reused():
    totals = read_sentence("planned without reuse: 10 queries, 44 pairs, 1,000 tokens, 2.0000 hours")
    plan = reality.of_sentence(totals, targets=1)
    labelled = {"pairs": 20.0, "tokens": 450.0, "seconds": HOUR / 2}
    reports = [
        ("generate_queries", "medicines", {"queries": 9.0, "seconds": HOUR / 2}),
        ("teacher_label", "inns", labelled), ("teacher_label", "medicines", labelled),
        *((stage, "", {"seconds": HOUR / 2}) for stage in ("distill_phase1", "distill_phase2", "evaluate")),
    ]  # fmt: skip
    found = lines(plan, reports)
    assert found["generate_queries", "queries"] == (10, 9, 0.0, 0.9)
    assert found["teacher_label", "pairs"] == (44, 40, 0.0, pytest.approx(40 / 44))
    assert found["total", "hours"] == (2.0, 3.0, 0.0, 1.5)
    cached = lines(plan, reports[:2])  # one of two corpora
    assert cached["teacher_label", "pairs"] == (44, 20, None, None) and cached["total", "hours"] == (
        2.0,
        1.0,
        None,
        None,
    )
    assert lines(plan, [])["teacher_label", "pairs"] == (44, 0, 1.0, None)


def test_a_plan_is_json(tmp_path):
    data = json.loads(json.dumps(a_plan(price=1.5).as_data()))
    assert data["rows"][-1]["stage"] == "total" and data["rows"][-1]["price"] > 0 and data["device"] == "H100"


# --- several pods -----------------------------------------------------------------------------------------------------


def test_pods_that_share_work_divide_its_time_and_cost_their_starts():
    plans = {}
    for workers in (1, 4):
        profile = load("demo", {"cluster.workers": workers})
        plans[workers] = make_plan(profile, "A100", 2.0, lambda work, section, sample: Speed(0.5, "made up", 9.0))
    one, four = plans[1], plans[4]
    source, *targets = dict.fromkeys(row.collection for row in one.rows if row.collection)

    def hours(plan, stage, collection=""):
        return sum(row.hours for row in plan.rows if (row.stage, row.collection) == (stage, collection))

    shared = [(stage, each) for stage in ("generate_queries", "teacher_label") for each in (source, *targets)]
    starts = 3 * START_SECONDS / 3600
    for stage, each in shared:
        assert hours(four, stage, each) == pytest.approx(
            hours(one, stage, each) + (starts if hours(one, stage, each) else 0)
        )
    after = hours(one, "distill_phase2") + hours(one, "evaluate")
    assert [hours(four, stage) for stage in ("distill_phase2", "evaluate")] == [
        hours(one, stage) for stage in ("distill_phase2", "evaluate")
    ]
    for workers, plan in plans.items():
        beside = [
            (hours(plan, "generate_queries", each) + hours(plan, "teacher_label", each)) / workers for each in targets
        ]
        first = hours(plan, "teacher_label", source) / workers + hours(plan, "distill_phase1")
        assert plan.span == pytest.approx(max(first, *beside) + after)
    assert four.span < one.span and four.as_data()["workers"] == 4
    assert make_plan(load("demo"), "A100", 2.0, lambda *_: Speed(0.0, "not known")).span is None


def test_what_pods_beside_a_task_did_is_that_stages_and_those_without_work_count_for_nothing():
    profile = load("demo", {"cluster.workers": 3})
    plan = make_plan(profile, "A100", 0.0, lambda work, section, sample: Speed(0.5, "made up", 9.0)).as_data()
    pairs = {row["collection"]: row["pairs"] for row in plan["rows"] if row["stage"] == "teacher_label"}
    reports = []
    for collection, whole in pairs.items():
        reports += [
            ("teacher_label", collection, {"pairs": whole, "reused_pairs": whole - 10, "tokens": 100, "seconds": 36}),
            ("help_label", collection, {"pairs": whole - 10, "tokens": 900, "seconds": 72}),
            ("help_label", collection, {"pairs": 0, "tokens": 0, "seconds": 9}),
        ]
    found = {(each.stage, each.quantity): each for each in reality.compare(plan, reports)}
    told = found["teacher_label", "pairs"]
    assert (told.planned, told.real, told.reused, told.ratio) == (sum(pairs.values()), sum(pairs.values()), 0.0, 1.0)
    assert found["teacher_label", "hours"].real == pytest.approx(len(pairs) * 108 / 3600)
    assert reality.done(reports)["tokens"] == 1000 * len(pairs)


def test_a_judge_costs_calls_tokens_and_the_hours_of_its_model():
    own = {"evaluation.judge": {"checkpoint": "x/judge-8b", "queries": 40}}
    without, plan = a_plan(), a_plan(**own)
    queries = sum(
        min(count(each, load("demo").corpus).test_queries, 40) for each in (load("demo").source, *load("demo").targets)
    )
    asked = row(plan, "judge")
    assert (asked.queries, asked.pairs) == (queries, queries * 20) and queries
    assert asked.tokens > asked.pairs * 100 and asked.hours and plan.span > without.span
    assert plan.total.hours == pytest.approx(without.total.hours + asked.hours)
    assert any("judge: x/judge-8b: a call for each of 2 x 10 passages" in note for note in plan.notes)
    served = a_plan(**{"evaluation.judge": {**own["evaluation.judge"], "backend": "openai", "endpoint": "http://x/v1"}})
    assert row(served, "judge").pairs == asked.pairs and row(served, "judge").hours == 0.0
    # Done by `evaluate`, whose hours are held against both.
    seconds = 3600 * (row(plan, "evaluate").hours + asked.hours)
    reports = [("evaluate", "", {"seconds": seconds, "pairs": row(plan, "evaluate").pairs})]
    lines = reality.compare(plan.as_data(), reports)
    assert next(each.ratio for each in lines if (each.stage, each.quantity) == ("evaluate", "hours")) == pytest.approx(
        1.0
    )


def test_a_judge_that_is_here_is_measured_with_its_own_prompt():
    text = "Query: {query}\nPassage: {passage}\nGrade: "
    profile = load("demo", {"evaluation.judge": {"checkpoint": tiny_causal(), "prompt": text, "max_new_tokens": 4}})
    found = speed.measure_generation(judge.measurable(profile), SAMPLE, anyway=True)
    assert found and found.each > 0 and found.tokens <= 4 and "measured here" in found.how
