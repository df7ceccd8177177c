"""Local files: atomic, digested, never half-written."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from inranker_flow.errors import UserError
from inranker_flow.storage import s3_client, uris
from inranker_flow.storage.local import atomic_folder, atomic_write, digest_file, digest_folder
from tests.refusals import refuses


def test_atomic_write_replaces_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as out:
        out.write(b"old")
        assert not path.exists()
    with atomic_write(path) as out:
        out.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644, "others may read it, unlike a temporary file"


def test_atomic_write_leaves_nothing_on_failure(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match="broken"), atomic_write(tmp_path / "file") as out:
        out.write(b"half")
        raise ValueError("broken")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_killed_writer_leaves_nothing_under_the_name(tmp_path):
    program = (
        "import sys\nfrom inranker_flow.storage.local import atomic_write\n"
        "with atomic_write(sys.argv[1]) as out:\n"
        "    out.write(b'half'); out.flush(); print('written', flush=True); sys.stdin.read()\n"
    )
    target = tmp_path / "file"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program, str(target)], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None and child.stdout.readline() == b"written\n"
        child.kill()
    assert not target.exists()


def test_atomic_folder(tmp_path):
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "a"
    with refuses("folder-not-empty"), atomic_folder(tmp_path / "folder") as folder:
        (folder / "b").write_text("b")
    with pytest.raises(ValueError, match="broken"), atomic_folder(tmp_path / "other"):
        raise ValueError("broken")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["a"]


def test_digests_depend_on_content_and_names(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_bytes(b"content")
    assert digest_file(tmp_path / "x" / "a") == sha256(b"content").hexdigest()
    before, mark = digest_folder(tmp_path / "x"), uris.fingerprint(str(tmp_path / "x"))
    (tmp_path / "x").rename(tmp_path / "y")
    assert digest_folder(tmp_path / "y") == before
    assert uris.fingerprint(str(tmp_path / "y")) == mark, "the place does not matter"
    (tmp_path / "y" / "a").rename(tmp_path / "y" / "b")
    assert digest_folder(tmp_path / "y") != before
    assert uris.fingerprint(f"file://{tmp_path / 'y'}") != mark
    (tmp_path / "y" / "b").write_bytes(b"Content")
    assert digest_file(tmp_path / "y" / "b") != sha256(b"content").hexdigest()


def test_local_uris(tmp_path):
    (tmp_path / "a").write_text("a")
    assert uris.local_copy(str(tmp_path)) == tmp_path
    assert uris.local_copy(f"file://{tmp_path}/a") == tmp_path / "a"
    assert uris.exists(f"file://{tmp_path}/a") and not uris.exists(f"{tmp_path}/b")
    with refuses("not-found"):
        uris.local_copy(f"{tmp_path}/b")
    with refuses("address-form"):
        uris.list_files("s3://")
    uris.upload(tmp_path / "a", f"file://{tmp_path}/copy/a")
    uris.upload(tmp_path / "copy", f"{tmp_path}/copy2")
    assert (tmp_path / "copy2" / "a").read_text() == "a"


def test_of_many_local_writers_one_wins(tmp_path):
    uri = str(tmp_path / "lock")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: uris.put_if_absent(b"%d" % n, uri), range(8)))
    assert won.count(True) == 1
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("lock", b"%d" % won.index(True))]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid:9000"])
def test_unreachable_s3_fails_in_seconds(monkeypatch, endpoint):
    for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3_client.client.cache_clear()
    try:
        with pytest.raises(UserError) as caught:
            uris.local_copy("s3://bucket/corpus")
    finally:
        s3_client.client.cache_clear()
    assert str(caught.value).startswith("s3://bucket/corpus: ") and endpoint in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value) and "\n" not in str(caught.value)
