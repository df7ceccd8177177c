"""Storage, corpora and retrieval against a real S3 server."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from inranker_flow.config.sections import CorpusConfig, PrepareConfig
from inranker_flow.errors import UserError
from inranker_flow.stages.prepare_corpus import prepare_corpus
from inranker_flow.storage import s3_client, s3_objects, uris
from tests.refusals import refuses


def folder_with(path, files: dict[str, bytes]):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def content(path):
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_round_trip_of_a_folder(s3, tmp_path):
    files = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)), "empty": b""}
    uris.upload(folder_with(tmp_path / "here", files), f"{s3}/folder")
    assert uris.exists(f"{s3}/folder") and uris.exists(f"{s3}/folder/a.txt")
    assert not uris.exists(f"{s3}/fold")  # a prefix of a name is not a folder
    assert [(each.uri, each.size) for each in uris.list_files(f"{s3}/folder")] == [
        (f"{s3}/folder/a.txt", 3), (f"{s3}/folder/deep/er/b.bin", 256), (f"{s3}/folder/empty", 0),
    ]  # fmt: skip
    for uri in (f"{s3}/folder", f"{s3}/folder/"):
        assert content(uris.local_copy(uri)) == files
    single = uris.local_copy(f"{s3}/folder/deep/er/b.bin")
    assert single.name == "b.bin" and single.read_bytes() == files["deep/er/b.bin"]


def test_large_files_travel_in_parts(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_objects, "PART_BYTES", 5 * 2**20)  # the least that S3 allows
    data = os.urandom(12 * 2**20 + 17)
    (tmp_path / "large").write_bytes(data)
    uris.upload(tmp_path / "large", f"{s3}/large")
    assert uris.list_files(f"{s3}/large")[0].etag.endswith("-3"), "three parts"
    assert uris.local_copy(f"{s3}/large").read_bytes() == data


def test_unchanged_content_is_not_downloaded_again(s3, tmp_path, monkeypatch):
    uris.upload(folder_with(tmp_path / "here", {"a": b"one", "b": b"two"}), f"{s3}/folder")
    first, print_before = uris.local_copy(f"{s3}/folder"), uris.fingerprint(f"{s3}/folder")
    downloads: list[str] = []
    real = s3_client.client().download_file
    monkeypatch.setattr(s3_client.client(), "download_file", lambda *a, **k: downloads.append(a[1]) or real(*a, **k))
    assert uris.local_copy(f"{s3}/folder") == first and not downloads
    (tmp_path / "b").write_bytes(b"TWO")  # same size, other content
    uris.upload(tmp_path / "b", f"{s3}/folder/b")
    assert content(uris.local_copy(f"{s3}/folder")) == {"a": b"one", "b": b"TWO"}
    assert len(downloads) == 2
    assert uris.fingerprint(f"{s3}/folder") != print_before


def test_interrupted_download_leaves_nothing(s3, tmp_path, monkeypatch):
    uris.upload(folder_with(tmp_path / "here", {"a": b"one", "b": b"two"}), f"{s3}/folder")
    real = s3_client.client().download_file

    def break_off(bucket, key, name, **options):
        if key.endswith("/b"):
            raise KeyboardInterrupt
        real(bucket, key, name, **options)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(s3_client.client(), "download_file", break_off)
        uris.local_copy(f"{s3}/folder")
    assert not list((tmp_path / "download-cache").iterdir())
    assert content(uris.local_copy(f"{s3}/folder")) == {"a": b"one", "b": b"two"}


def test_two_processes_may_download_the_same(s3, tmp_path, monkeypatch):
    uris.upload(folder_with(tmp_path / "here", {"a": b"one"}), f"{s3}/folder")
    both, real = threading.Barrier(2, timeout=30), s3_client.client().download_file

    def meet(*arguments, **options):
        both.wait()  # neither finds the other's copy
        real(*arguments, **options)

    monkeypatch.setattr(s3_client.client(), "download_file", meet)
    with ThreadPoolExecutor(2) as pool:
        copies = list(pool.map(uris.local_copy, [f"{s3}/folder"] * 2))
    assert copies[0] == copies[1] and content(copies[0]) == {"a": b"one"}
    assert [each.name for each in (tmp_path / "download-cache").iterdir()] == [copies[0].name]


def test_of_many_writers_one_wins(s3):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: uris.put_if_absent(b"writer %d" % n, f"{s3}/lock"), range(8)))
    assert won.count(True) == 1
    assert uris.local_copy(f"{s3}/lock").read_bytes() == b"writer %d" % won.index(True)


def test_wrong_bucket_key_and_secret_are_one_line(s3, monkeypatch):
    with refuses("not-found"):
        uris.local_copy(f"{s3}/nowhere")
    with refuses("s3-refused"):
        uris.list_files("s3://no-such-bucket/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    s3_client.client.cache_clear()
    with pytest.raises(UserError, match=r"answered \w*(Signature|AccessDenied|InvalidAccess|403)"):
        uris.list_files(s3)


def test_a_collection_on_s3_is_the_same_as_beside(s3, tmp_path):
    here = folder_with(
        tmp_path / "beir",
        {
            "corpus.jsonl": b'{"_id": "d1", "title": "", "text": "one"}\n{"_id": "d2", "text": "two"}\n',
            "queries.jsonl": b'{"_id": "q1", "text": "which one"}\n',
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
        },
    )
    uris.upload(here, f"{s3}/beir")
    config = PrepareConfig()
    local = prepare_corpus(config, CorpusConfig(uri=str(here), name="x"), tmp_path / "local")
    remote = prepare_corpus(config, CorpusConfig(uri=f"{s3}/beir", name="x"), tmp_path / "remote")
    assert local == remote and local.documents == 2
    (tmp_path / "bad").write_bytes(b'{"_id": "d1", "text": "one"}\n{"_id": \n')
    uris.upload(tmp_path / "bad", f"{s3}/beir/corpus.jsonl")
    with pytest.raises(UserError, match=rf"^{s3}/beir/corpus\.jsonl line 2: not JSON"):
        prepare_corpus(config, CorpusConfig(uri=f"{s3}/beir", name="x"), tmp_path / "remote")


def test_a_dead_server_fails_in_seconds(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3_client.client.cache_clear()
    with pytest.raises(UserError, match=r"inranker.*no S3 server answers at http://127\.0\.0\.1:1"):
        uris.local_copy(s3)
