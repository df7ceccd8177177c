"""A stage that was asked the same before gives what it gave: by content, checked, and never something else."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kfp import dsl

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import content_digest, read_manifest, write_manifest
from inranker_flow.config.retrieval import RetrieveConfig
from inranker_flow.config.sections import CorpusConfig
from inranker_flow.execution.run_stage import run_stage
from inranker_flow.store import stage_results
from tests.refusals import refuses


@dataclass(frozen=True)
class Stats:
    rows: int
    speed: float
    #: Headlines, as `evaluate` has them.
    metrics: dict[str, float]
    unmeasured: int = 0


#: What the stage was called with.
calls: list[int] = []


def retrieve(
    config: RetrieveConfig, collection: Path, queries: list[Path], candidates: Path, page: Path, champion: str = ""
) -> Stats:
    calls.append(config.depth)
    (candidates / "runs").mkdir(parents=True)
    rows = {"query_id": ["q"], "doc_id": ["d"], "relevance": [config.depth]}
    tables.write(tables.QRELS, candidates / "qrels.parquet", rows)
    (candidates / "runs" / "a.trec").write_text("q Q0 d 1 1.0 bm25\n")
    write_manifest(candidates, dataset=read_manifest(collection).dataset, stage="retrieve", call=len(calls))
    page.write_text(f"<p>report {len(calls)}</p>")
    return Stats(config.depth, 2.5, {"nDCG@10": 0.5}, unmeasured=int(champion == "damaged"))


def collection(path: Path, text: str = "x", stage: str = "prepare_corpus", **details: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    tables.write(tables.CORPUS, path / "corpus.parquet", {"doc_id": ["d"], "title": [""], "text": [text]})
    write_manifest(path, dataset="vaswani", stage=stage, **details)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the stage on a folder of its own each time; returns where its outputs are and the record of it."""
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INRANKER_EVENTS", str(tmp_path / "events.jsonl"))
    calls.clear()
    source = collection(tmp_path / "collection")
    number = iter(range(100))

    def run(config=None, inputs=source, name="retrieve", queries=(), **values):
        out = tmp_path / f"run{next(number)}"
        artifacts = {"candidates": dsl.Dataset(uri=str(out / "candidates")), "page": dsl.HTML(uri=str(out / "page"))}
        stats = run_stage(
            retrieve, name=name, configs={"config": config or {}}, tracked=False, outputs=artifacts,
            inputs={"collection": dsl.Dataset(uri=str(inputs)), "queries": [dsl.Dataset(uri=str(q)) for q in queries]},
            metrics=dsl.Metrics(uri=str(out / "metrics")), **values,
        )  # fmt: skip
        event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
        assert json.loads((out / "metrics").read_text()).get("reused", 0) == event["reused"]
        assert artifacts["candidates"].metadata["digest"] == read_manifest(out / "candidates").content[:16]
        return out, stats, event["reused"]

    return run


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file() and each.name != "metrics")
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


def test_the_same_work_is_done_once(run):
    first, stats, reused = run()
    assert not reused and calls == [1000]
    again, stats_again, reused = run()
    assert reused and calls == [1000] and stats_again == stats
    assert bytes_of(again) == bytes_of(first) and set(bytes_of(first)) == {
        "candidates/qrels.parquet", "candidates/runs/a.trec", "candidates/manifest.json", "page",
    }  # fmt: skip


def test_what_could_not_be_measured_is_asked_again(run):
    """A damaged champion is mended at its address: the evaluation that could not measure it is no answer for ever."""
    assert not run(champion="damaged")[2]
    assert not run(champion="damaged")[2] and len(calls) == 2
    assert not run(champion="whole")[2]
    assert run(champion="whole")[2] and len(calls) == 3


def test_a_rebuilt_image_costs_nothing_and_a_new_version_of_the_stage_everything(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setenv("INRANKER_CODE_VERSION", "rebuilt")
    rebuilt = collection(tmp_path / "again", problems=["written by other code"])
    assert content_digest(rebuilt) == content_digest(tmp_path / "collection")
    assert (rebuilt / "manifest.json").read_bytes() != (tmp_path / "collection" / "manifest.json").read_bytes()
    assert run(inputs=rebuilt)[2]
    monkeypatch.setitem(stage_results.VERSIONS, "retrieve", stage_results.VERSIONS["retrieve"] + 1)
    assert not run()[2] and len(calls) == 2


def test_other_configuration_inputs_or_values_are_other_work(run, tmp_path):
    run()
    assert not run(config={"depth": 7})[2] and run(config={"depth": 1000})[2], "the default said aloud"
    assert not run(inputs=collection(tmp_path / "changed", "y"))[2]
    assert not run(queries=[collection(tmp_path / "queries", stage="generate_queries")])[2]
    assert not run(champion="x")[2]
    assert len(calls) == 5


def test_a_corpus_is_its_content_and_not_where_it_lies_or_what_became_of_it():
    corpus = CorpusConfig(uri="s3://a/b", name="b", fingerprint="f", prompt="inpars-v1")

    def asked(**changes):
        return stage_results._plain({"corpus": replace(corpus, **changes), "targets": (replace(corpus, **changes),)})

    for changes in ({"uri": "s3://c/b"}, {"licence": "MIT"}, {"earlier": "e"}):
        assert asked(**changes) == asked()
    for changes in ({"name": "c"}, {"fingerprint": "g"}, {"prompt": "document"}, {"test_split": "dev"}):
        assert asked(**changes) != asked()
    assert asked(uri="x", fingerprint="") != asked(uri="y", fingerprint="")


def test_what_the_configuration_only_names_counts_by_its_content(run, tmp_path):
    (tmp_path / "words.txt").write_text("the")
    config = {"stopwords": str(tmp_path / "words.txt")}
    assert not run(config)[2] and run(config)[2]
    (tmp_path / "words.txt").write_text("the\na")
    assert not run(config)[2]


@pytest.mark.parametrize("store", ["", "off"])
def test_without_a_store_everything_is_done(run, monkeypatch, store):
    monkeypatch.setenv("INRANKER_STORE", store)
    assert not run()[2] and not run()[2] and len(calls) == 2


def test_a_stage_without_a_version_is_always_done(run):
    assert not run(name="prepare_corpus")[2] and not run(name="prepare_corpus")[2] and len(calls) == 2


@pytest.mark.parametrize(
    "damage", ["content gone", "content changed", "entry cut", "entry of other code", "a file of another folder"]
)
def test_what_cannot_be_used_is_told_done_again_and_mended(run, tmp_path, capsys, damage):
    first, _, _ = run()
    [entry] = tmp_path.glob("store/stages/retrieve/*.json")
    known = json.loads(entry.read_text())
    page = tmp_path / "store" / "content" / known["outputs"]["page"][""]
    if damage == "content gone":
        page.unlink()
    elif damage == "content changed":
        page.write_bytes(page.read_bytes().replace(b"report", b"rumour"))
    elif damage == "a file of another folder":
        files = known["outputs"]["candidates"]
        files["runs/a.trec"] = files["qrels.parquet"]  # whole, and in the store, but not what the manifest says
        entry.write_text(json.dumps(known))
    elif damage == "entry cut":
        entry.write_text(entry.read_text()[:-20])
    else:
        entry.write_text(json.dumps({**known, "stats": {"lines": 3}}))
    again, _, reused = run()
    assert not reused and len(calls) == 2
    assert "cannot be used" in capsys.readouterr().out
    assert run()[2] and len(calls) == 2, "mended"
    assert bytes_of(again)["page"] == b"<p>report 2</p>" != bytes_of(first)["page"]


def test_a_store_that_takes_nothing_costs_a_warning_not_the_work(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "file"))
    out, _, reused = run()
    assert not reused and (out / "candidates" / "manifest.json").is_file()
    said = capsys.readouterr().out
    assert "not kept for the next run" in said and "done in" in said and "Traceback" not in said


def test_manifests_say_what_an_artifact_holds_and_where_it_comes_from(run, tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_CODE_VERSION", "c0de")
    out, _, _ = run()
    manifest = read_manifest(out / "candidates")
    assert manifest.origin["parents"] == {"collection": [content_digest(tmp_path / "collection")], "queries": []}
    assert manifest.origin["code"] == "c0de" and len(manifest.origin["configuration"]) == 64
    table = manifest.tables["qrels.parquet"]
    assert (table["table"], table["version"], table["rows"]) == ("qrels", "1", 1)
    assert table["columns"] == {"query_id": "string", "doc_id": "string", "relevance": "int32"}
    other = read_manifest(run(config={"depth": 7})[0] / "candidates")
    assert other.origin["configuration"] != manifest.origin["configuration"] and other.content != manifest.content


def test_a_contents_digest_is_of_the_rows_not_of_how_they_are_packed(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"query_id": [f"q{i}" for i in range(50)], "text": [f"text é {i}" for i in range(50)],
            "origin": ["synthetic"] * 50, "source_doc_id": [None if i % 3 else "" for i in range(50)]}  # fmt: skip
    table = pa.table(rows, schema=tables.QUERIES.schema)

    def digest(name, table, **options):
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "queries.parquet", **options)
        return write_manifest(tmp_path / name, dataset="toy", stage="any")

    first = digest("a", table)
    packed = digest("b", table, row_group_size=7, compression="zstd", use_dictionary=False)
    assert packed.files != first.files and packed.content == first.content
    assert digest("c", table.slice(1)).content != first.content
    swapped = table.take(pa.array([1, 0, *range(2, 50)]))
    assert digest("d", swapped).content != first.content
    filled = table.set_column(3, table.schema.field(3), pa.array([""] * 50))
    assert digest("e", filled).content != first.content, "a null is not an empty text"
    moved = {**rows, "text": [f"{text}x" if i == 0 else text for i, text in enumerate(rows["text"])]}
    assert digest("f", pa.table(moved, schema=tables.QUERIES.schema)).content != first.content


def test_a_manifest_that_was_changed_is_refused(tmp_path):

    folder = collection(tmp_path / "collection")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 1', '"rows": 1').replace("vaswani", "cranfield"))
    with refuses("artifact-damaged", "manifest.json"):
        read_manifest(folder)


def test_reuse_does_not_hide_that_the_store_is_unreachable(run, monkeypatch, capsys):
    """Work goes on without it; the line names the address."""
    monkeypatch.setenv("INRANKER_STORE", "s3://inranker/store")
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    from inranker_flow.storage import s3_client

    s3_client.client.cache_clear()
    out, _, reused = run()
    s3_client.client.cache_clear()
    assert not reused and (out / "candidates" / "manifest.json").is_file()
    assert "no S3 server answers at http://127.0.0.1:9" in capsys.readouterr().out
    shutil.rmtree(out)
