"""The label store and reuse on a real S3 server: several pods at once, and everything that goes wrong on the way there."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inranker_flow.artifacts.hashing import hash_rows
from inranker_flow.artifacts.manifest import read_manifest
from inranker_flow.config.sections import TeacherConfig
from inranker_flow.errors import UserError
from inranker_flow.scoring.logits import SCHEMA
from inranker_flow.stages.teacher_label import teacher_label
from inranker_flow.storage import s3_client, uris
from inranker_flow.store import stage_results
from inranker_flow.store.kept_rows import ContentStore
from tests import forked, models
from tests.refusals import refuses
from tests.s3_faults import KINDS, S3Faults

WORDS = [word for word in models.WORDS.split() if word.isalpha()][20:]
DOCUMENTS = {f"d{i}": " ".join(WORDS[(i + k) % len(WORDS)] for k in range(1 + i * 7 % 23)) for i in range(60)}
QUERIES = {f"q{i}": f"where is the {WORDS[i]}" for i in range(12)}
PAIRS = [(f"q{i}", f"d{(5 * i + k) % 60}") for i in range(12) for k in range(10)]


@pytest.fixture
def inputs(tmp_path):
    collection = models.collection(tmp_path / "collection", DOCUMENTS)
    return collection, models.candidates(tmp_path / "candidates", QUERIES, PAIRS)


@pytest.fixture
def proxy(s3, s3_server, monkeypatch):
    """The server behind a proxy that lets everything through, until the test says otherwise; short pauses."""
    with S3Faults(s3_server.endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(s3_client, "PAUSE", 0.01)
        # The client's own pauses, not whether or how often it tries again.
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
        s3_client.client.cache_clear()
        yield server


def config(**changes):
    return TeacherConfig(**{"checkpoint": models.t5(), "shard_pairs": 10, **changes})


def label_files(s3):
    return [each.uri for each in uris.list_files(f"{s3}/labels") if each.uri.endswith(".parquet")]


def rows_in(s3):
    """Keys of all rows in the store, as often as they are there."""
    tables = [pq.read_table(pa.BufferReader(uris.read(uri))) for uri in label_files(s3)]
    return [key for table in tables for key in table.column("key").to_pylist()]


def rows(names):
    return hash_rows(names), pa.table({"false_logit": range(len(names)), "true_logit": range(len(names))}).cast(SCHEMA)


@pytest.mark.parametrize("step", ["in step", "one ahead"])
def test_two_label_pods_at_once_share_one_store(s3, tmp_path, inputs, monkeypatch, step):
    """Two processes, the same work: every pair is there once. Who is behind takes what the other has put.

    In step, on one core, each may score all: then neither has put anything when the other looks.
    """
    monkeypatch.setenv("INRANKER_STORE", s3)
    script = f"""
import sys
from pathlib import Path
from inranker_flow.config.sections import TeacherConfig
from inranker_flow.stages.teacher_label import teacher_label
config = TeacherConfig(checkpoint={models.t5()!r}, shard_pairs=5)
print("ready", flush=True)
sys.stdin.readline()
stats = teacher_label(config, Path({str(inputs[0])!r}), Path({str(inputs[1])!r}), Path(sys.argv[1]))
print(stats.pairs - stats.reused_pairs)
"""
    pods = []
    for name in ("one", "two"):
        scratch = str(tmp_path / f"scratch-{name}")
        pods.append(forked.start(script, tmp_path / name, INRANKER_SCRATCH=scratch, OMP_NUM_THREADS="1"))
    for pod in pods:
        assert pod.stdout.readline() == "ready\n"
    for pod in pods:
        while step == "one ahead" and pod is pods[1] and not label_files(s3):
            assert pods[0].poll() in (None, 0), pods[0].stdout.read()
            time.sleep(0.01)
        pod.stdin.write("go\n")
        pod.stdin.flush()
    printed = [pod.stdout.read() for pod in pods]
    assert [pod.wait() for pod in pods] == [0, 0], printed
    scored = [int(each.split()[-1]) for each in printed]
    keys = rows_in(s3)
    assert len(set(keys)) == len(PAIRS) == 120, "no write is lost"
    assert len(keys) == 120, "the same shard is the same file, so nothing is there twice"
    assert 120 <= sum(scored) <= 2 * 120
    assert step == "in step" or scored[1] <= 115, "what was there when it began it has not scored again"
    assert read_manifest(tmp_path / "one").content == read_manifest(tmp_path / "two").content
    assert teacher_label(config(), *inputs, tmp_path / "again").reused_pairs == 120


def test_a_tenth_of_the_requests_going_wrong_costs_no_label(s3, tmp_path, inputs, monkeypatch, proxy):
    teacher_label(config(shard_pairs=5), *inputs, tmp_path / "alone")
    monkeypatch.setenv("INRANKER_STORE", s3)
    proxy.rate = 0.1
    for name, reused in (("first", 0), ("again", 120), ("third", 120)):
        assert teacher_label(config(shard_pairs=5), *inputs, tmp_path / name).reused_pairs == reused
        assert read_manifest(tmp_path / name) == read_manifest(tmp_path / "alone")
    # The seed decides how many of so many requests go wrong, and how many there are differs by the retries alone.
    assert sum(proxy.done.values()) > proxy.done[""] > 0, f"of {proxy.done}"
    proxy.rate = 0.0
    assert len(rows_in(s3)) == len(set(rows_in(s3))) == 120


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone_loses_and_doubles_nothing(s3, proxy, monkeypatch, kind):
    """Every other request: each goes through at the second attempt."""
    turn = iter(range(10_000))
    monkeypatch.setattr(proxy, "fault", lambda: kind if next(turn) % 2 == 0 else "")
    monkeypatch.setattr("tests.s3_faults._DELAY", 0.01)
    store = ContentStore(f"{s3}/store", SCHEMA)
    for start in range(0, 40, 10):
        assert store.put(*rows([f"k{start + i}" for i in range(10)])), "the lost answer to one's own write is found out"
    store.put(*rows([f"k{i}" for i in range(10)]))
    assert len(uris.names(f"{s3}/store")) == 4, "the same rows are one file"
    found, table = ContentStore(f"{s3}/store", SCHEMA).find(hash_rows([f"k{i}" for i in range(50)]))
    assert found.tolist() == [True] * 40 + [False] * 10
    assert table.column("true_logit").to_pylist() == [float(i % 10) for i in range(40)]
    assert store.compact(2) == 4 and len(uris.names(f"{s3}/store")) == 1


def test_a_server_that_stays_in_trouble_is_one_line_and_what_is_stored_stays(s3, tmp_path, inputs, monkeypatch, proxy):
    monkeypatch.setenv("INRANKER_STORE", s3)
    proxy.refuse = lambda method, path, headers: (
        (503, "SlowDown") if method == "PUT" and len(label_files_seen) > 3 else None
    )
    label_files_seen: list[str] = []
    inner = uris.put_if_absent
    monkeypatch.setattr(uris, "put_if_absent", lambda data, uri: label_files_seen.append(uri) or inner(data, uri))
    with refuses("s3-refused") as error:
        teacher_label(config(), *inputs, tmp_path / "labels")
    assert "\n" not in str(error.value) and not (tmp_path / "labels" / "manifest.json").exists()
    proxy.refuse = lambda *_: None
    kept = len(rows_in(s3))
    assert kept == 20, "an identity and two shards were through"
    stats = teacher_label(config(), *inputs, tmp_path / "labels")
    assert stats.reused_pairs == kept and len(rows_in(s3)) == 120


def test_an_upload_that_is_refused_names_what_the_server_said_and_what_it_may_mean(s3, tmp_path, proxy):
    """boto3 puts an error of its own around it."""
    proxy.refuse = lambda method, *_: (500, "InternalError") if method == "PUT" else None
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(
        UserError, match=rf"^{s3}/file: .*answered InternalError: said the test \(tried again for \d+ s\); .*free space"
    ) as error:
        uris.upload(tmp_path / "file", f"{s3}/file")
    assert "\n" not in str(error.value)
    proxy.refuse = lambda *_: None
    assert uris.names(s3) == {}


@pytest.mark.parametrize(("status", "code"), [(507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_a_bucket_that_fills_up_ends_at_once_and_clearly(s3, tmp_path, inputs, monkeypatch, proxy, status, code):
    monkeypatch.setenv("INRANKER_STORE", s3)
    puts = iter(range(100))
    proxy.refuse = lambda method, *_: (status, code) if method == "PUT" and next(puts) >= 4 else None
    with pytest.raises(UserError, match=rf"{s3}/labels/.*answered {code}.*what is stored stays, so make room") as error:
        teacher_label(config(), *inputs, tmp_path / "labels")
    assert "\n" not in str(error.value) and next(puts) == 5, "it was not asked again"
    proxy.refuse = lambda *_: None
    assert len(rows_in(s3)) == 30
    assert teacher_label(config(), *inputs, tmp_path / "labels").reused_pairs == 30


def expire(proxy, key, after=0):
    """Requests with this access key are refused from the ``after``-th put on."""
    puts = iter(range(10_000))
    over = []

    def refuse(method, path, headers):
        if method == "PUT" and next(puts) >= after:
            over.append(True)
        return (400, "ExpiredToken") if over and f"Credential={key}/" in headers.get("Authorization", "") else None

    proxy.refuse = refuse


def test_credentials_that_expire_midway_and_are_renewed_cost_nothing(
    s3, s3_server, tmp_path, inputs, monkeypatch, proxy
):
    """A file that something else renews, as roles and mounted secrets are."""
    keys = s3_server.environment["AWS_ACCESS_KEY_ID"], s3_server.environment["AWS_SECRET_ACCESS_KEY"]
    file = tmp_path / "credentials"

    def write(key, secret):
        file.write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")

    write(*keys)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("INRANKER_STORE", s3)
    s3_client.client.cache_clear()
    expire(proxy, keys[0], after=4)
    inner, renewed = s3_client._passes, []

    def renew(error):
        write("inranker-second", "inranker-second-secret")
        renewed.append(str(error))
        return inner(error)

    monkeypatch.setattr(s3_client, "_passes", renew)
    stats = teacher_label(config(), *inputs, tmp_path / "labels")
    assert stats.pairs == 120 and len(renewed) == 1 and "ExpiredToken" in renewed[0]
    assert len(rows_in(s3)) == 120


def test_credentials_that_expire_for_good_are_one_line(s3, s3_server, tmp_path, inputs, monkeypatch, proxy):
    monkeypatch.setenv("INRANKER_STORE", s3)
    expire(proxy, s3_server.environment["AWS_ACCESS_KEY_ID"], after=3)
    with refuses("s3-refused") as error:
        teacher_label(config(), *inputs, tmp_path / "labels")
    assert "\n" not in str(error.value)
    proxy.refuse = lambda *_: None
    assert teacher_label(config(), *inputs, tmp_path / "labels").reused_pairs == 20


def test_stages_are_reused_through_s3_and_through_faults(s3, tmp_path, inputs, monkeypatch, proxy):
    monkeypatch.setenv("INRANKER_STORE", s3)
    labels = tmp_path / "labels"
    stats = teacher_label(config(), *inputs, labels)
    arguments = {"config": config()}, {"collection": inputs[0], "candidates": inputs[1]}, {}
    proxy.rate = 0.1
    work = stage_results.work("teacher_label", *arguments)
    assert work.restore(type(stats), {"labels": tmp_path / "nothing"}) is None
    work.keep(stats, {"labels": labels})
    for number in range(3):
        restored = stage_results.work("teacher_label", *arguments).restore(
            type(stats), {"labels": tmp_path / f"back{number}"}
        )
        assert restored == stats
        assert read_manifest(tmp_path / f"back{number}") == read_manifest(labels)
    name = next(iter(uris.names(f"{s3}/content")))
    uris.put(b"other bytes", f"{s3}/content/{name}")
    assert stage_results.work("teacher_label", *arguments).restore(type(stats), {"labels": tmp_path / "bad"}) is None
    assert not (tmp_path / "bad").exists()


def test_a_conditional_put_of_the_same_bytes_by_two_is_won_by_one(s3):
    assert uris.put_if_absent(b"lock", f"{s3}/lock") and not uris.put_if_absent(b"lock", f"{s3}/lock")
    uris.put(b"new", f"{s3}/lock")
    assert uris.read(f"{s3}/lock") == b"new" and uris.names(s3) == {"lock": 3}
    uris.delete(f"{s3}/lock")
    uris.delete(f"{s3}/lock")
    with pytest.raises(FileNotFoundError):
        uris.read(f"{s3}/lock")
    assert uris.names(s3) == {} and np.array(uris.names(f"{s3}/none")).size == 1
