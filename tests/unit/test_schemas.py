from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts import tables
from inranker_flow.errors import UserError
from tests.refusals import refuses

LABELS = {"query_id": ["q1", "q1"], "doc_id": ["a", "b"], "false_logit": [0.1, 0.2], "true_logit": [1.0, 2.0]}


def test_round_trip_keeps_every_bit(tmp_path):
    labels = {**LABELS, "true_logit": [0.1 + 0.2, -1e-300]}
    assert tables.write(tables.LABELS, tmp_path / "labels.parquet", labels) == 2
    assert tables.read(tables.LABELS, tmp_path).to_pydict() == labels
    assert tables.count(tables.LABELS, tmp_path) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_id": ["a", "a"]}, "key (query_id, doc_id) of row 1 again in row 2"),
        ({"doc_id": ["a", None]}, "row 2 of table labels has no doc_id"),
        ({"doc_id": ["a", ""]}, "row 2 of table labels has an empty doc_id"),
        ({"true_logit": [1.0, float("nan")]}, "row 2 of table labels has true_logit = nan"),
        ({"true_logit": [float("inf"), 1.0]}, "row 1 of table labels has true_logit = inf"),
        ({"true_logit": ["x", 1.0]}, "not a labels table"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_left(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        tables.write(tables.LABELS, tmp_path / "labels.parquet", {**LABELS, **change})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_unique_across_batches_and_rows_are_counted_from_the_start(tmp_path):
    with (
        refuses("table-key-twice", "row 2", "row 3"),
        tables.TableWriter(tmp_path / "labels.parquet", tables.LABELS) as writer,
    ):
        writer.write(LABELS)
        writer.write({key: values[1:] for key, values in LABELS.items()})
    assert list(tmp_path.iterdir()) == []


def test_composite_keys_do_not_run_together(tmp_path):
    rows = {**LABELS, "query_id": ["a", "ab"], "doc_id": ["bc", "c"]}
    assert tables.write(tables.LABELS, tmp_path / "labels.parquet", rows) == 2


def test_an_exception_in_the_body_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.parquet"
    tables.write(tables.LABELS, path, LABELS)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), tables.TableWriter(path, tables.LABELS) as writer:
        writer.write({**LABELS, "query_id": ["q9", "q9"]})
        raise KeyboardInterrupt
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["labels.parquet"]


def test_reading_says_what_is_wrong(tmp_path):
    with refuses("artifact-missing"):
        tables.read(tables.LABELS, tmp_path)
    pq.write_table(pa.table({"query_id": ["q"]}), tmp_path / "labels.parquet")
    with refuses("table-form", "doc_id"):
        tables.read(tables.LABELS, tmp_path)
    (tmp_path / "labels.parquet").write_bytes(b"not parquet")
    with refuses("artifact-damaged"):
        tables.read(tables.LABELS, tmp_path)


def test_foreign_keys(tmp_path):
    labels = pa.table(LABELS, schema=tables.LABELS.schema)
    tables.check_references(labels, "doc_id", ["a", "b"], "the corpus", "labels.parquet")
    with pytest.raises(UserError, match="row 2 has doc_id 'b', which the corpus lacks"):
        tables.check_references(labels, "doc_id", ["a"], "the corpus", "labels.parquet")


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path):
    """A process that may write no more than 64 KiB to a file meets the kernel's own refusal in the middle of a write."""
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
import random
from inranker_flow.artifacts import tables
from inranker_flow.errors import UserError
rows = [str(random.random()) for _ in range(200_000)]
try:
    tables.write(tables.CORPUS, {str(tmp_path / "corpus.parquet")!r}, {{"doc_id": rows, "title": rows, "text": rows}})
except UserError as error:
    print(error)
    sys.exit(3)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 3, ended.stderr
    assert "corpus.parquet: cannot be written: File too large; nothing is left" in ended.stdout
    assert list(Path(tmp_path).iterdir()) == []


def test_a_million_keys_need_little_memory(tmp_path):
    """16 bytes a key while writing: peak growth stays far below what a set of strings would take."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tables.TableWriter(tmp_path / "qrels.parquet", tables.QRELS) as writer:
        for start in range(0, 1_000_000, 50_000):
            ids = [f"query-{i}" for i in range(start, start + 50_000)]
            writer.write({"query_id": ids, "doc_id": ids, "relevance": [1] * len(ids)})
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert writer.rows == 1_000_000 and grown < 200, f"{grown:.0f} MiB"


def test_what_was_read_of_a_file_is_not_kept_until_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_BYTES", 2**20)
    path = tmp_path / "corpus.parquet"
    random = Random(1)
    with tables.TableWriter(path, tables.CORPUS) as writer:
        for number in range(40):
            writer.write({"doc_id": [f"d{number}"], "title": [""], "text": [random.randbytes(2**18).hex()]})
    before, most = pa.total_allocated_bytes(), 0
    for _ in tables.read_batches(tables.CORPUS, path):
        most = max(most, pa.total_allocated_bytes() - before)
    assert path.stat().st_size > 8 * 2**20 and most < 6 * 2**20
