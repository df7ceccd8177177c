"""Where unfinished work lies, and what of it is found again: in a folder and on a real S3 server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inranker_flow.errors import UserError
from inranker_flow.storage import local, s3_client, uris
from inranker_flow.store import unfinished
from tests.refusals import refuses
from tests.s3_faults import S3Faults


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, monkeypatch):
    """A store's address, which is `INRANKER_STORE`."""
    uri = request.getfixturevalue("s3") if request.param == "s3" else str(tmp_path / "store")
    monkeypatch.setenv("INRANKER_STORE", uri)
    monkeypatch.setenv("INRANKER_SCRATCH", str(tmp_path / "scratch"))
    return uri


@pytest.fixture
def work(tmp_path):
    """A function that makes a file (or a folder of two) with some bytes in it."""

    def make(data: bytes, folder: bool = False):
        path = tmp_path / "work" / str(len(data)) / ("folder" if folder else "file")
        for name, part in {"a": data, "b/c": data[::-1]}.items() if folder else {"": data}.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(part)
        return path

    return make


def names(uri):
    return sorted(each.uri.rpartition("/")[2] for each in uris.look(uri))


def test_a_place_is_of_the_work_and_below_the_store_where_there_is_one(tmp_path, store, monkeypatch):
    uri = unfinished.place("distill", {"seed": 1}, "digest")
    assert uri.startswith(f"{store}/unfinished/distill/") and unfinished.shared()
    assert uri == unfinished.place("distill", {"seed": 1}, "digest")
    assert (
        len({uri, unfinished.place("distill", {"seed": 2}, "digest"), unfinished.place("x", {"seed": 1}, "digest")})
        == 3
    )
    monkeypatch.setenv("INRANKER_STORE", "off")
    apart = unfinished.place("distill", {"seed": 1}, "digest")
    assert apart.startswith(str(tmp_path / "scratch")) and not unfinished.shared()


@pytest.mark.parametrize("folder", [False, True])
def test_the_newest_version_comes_back_and_two_are_kept(tmp_path, store, work, folder):
    uri = unfinished.place("distill", 1)
    target = tmp_path / "fetched"
    assert unfinished.load(uri, target) is None and not target.exists()
    for number, data in enumerate((b"first", b"second", b"the third"), 1):
        unfinished.save(work(data, folder), uri, number)
    assert unfinished.load(uri, target) == 3
    assert (target / "a" if folder else target).read_bytes() == b"the third"
    if folder:
        assert (target / "b" / "c").read_bytes() == b"driht eht"
    assert len(names(uri)) == 2 + 2 * (1 + folder), "two versions and their files"
    assert unfinished.load(uri, target, above=3) is None
    unfinished.save(work(b"fourth", folder), uri, 4)
    assert unfinished.load(uri, target, above=3) == 4, "in place of what was there"
    assert (target / "a" if folder else target).read_bytes() == b"fourth"


def test_all_of_a_place_is_removed_and_nothing_else(store, work):
    mine, other = unfinished.place("distill", 1), unfinished.place("distill", 2)
    for uri in (mine, other):
        unfinished.save(work(b"bytes"), uri, 1)
    unfinished.remove(mine)
    assert names(mine) == [] and len(names(other)) == 2
    unfinished.remove(mine)


def test_nothing_is_left_of_the_last_work_of_a_folder(tmp_path, work, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    (tmp_path / "store" / "labels").mkdir(parents=True)
    places = [unfinished.place("distill", number) for number in (1, 2)]
    for uri in places:
        unfinished.save(work(b"bytes"), uri, 1)
    unfinished.remove(places[0])
    assert len(names(places[1])) == 2
    unfinished.remove(places[1])
    assert [each.name for each in (tmp_path / "store").iterdir()] == ["labels"]


def test_what_a_stage_kept_goes_when_its_results_are_safe(store, work):
    uri = unfinished.place("distill", 1)
    unfinished.save(work(b"bytes"), uri, 1)
    with pytest.raises(UserError, match="the upload failed"), unfinished.kept_first():
        unfinished.remove(uri)
        raise UserError("the upload failed")
    assert len(names(uri)) == 2
    with unfinished.kept_first():
        unfinished.remove(uri)
        assert len(names(uri)) == 2
    assert names(uri) == []


def test_a_file_that_two_versions_share_stays_with_the_newer_one(tmp_path, store, work):
    uri = unfinished.place("distill", 1)
    for number in range(1, 5):
        unfinished.save(work(b"the same"), uri, number)
    assert unfinished.load(uri, tmp_path / "fetched") == 4 and len(names(uri)) == 3


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
def test_a_damaged_version_is_told_and_the_one_before_is_taken(tmp_path, store, work, caplog, damage):
    uri, target = unfinished.place("distill", 1), tmp_path / "fetched"
    for number, data in ((1, b"good"), (2, b"later")):
        unfinished.save(work(data), uri, number)
    digest = local.digest_file(work(b"later"))
    uris.delete(f"{uri}/{digest}")  # a file of its own: the link's other end stays whole
    if damage is not None:
        uris.put(damage, f"{uri}/{digest}")
    assert unfinished.load(uri, target) == 1 and target.read_bytes() == b"good"
    assert f"{uri}: version 2 of unfinished work is removed" in caplog.text
    uris.put(b"x", f"{uri}/{local.digest_file(work(b'good'))}")
    assert unfinished.load(uri, tmp_path / "none") is None and not (tmp_path / "none").exists()
    unfinished.save(work(b"anew"), uri, 1)
    assert unfinished.load(uri, target) == 1 and target.read_bytes() == b"anew", (
        "what was damaged stands in no one's way"
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"files": {}}', '{"files": {"": "../x"}}', '{"files": {"../x": "' + "0" * 64 + '"}}', "\xff"],
)
def test_a_version_that_names_nothing_whole_is_no_version(tmp_path, store, work, caplog, text):
    uri = unfinished.place("distill", 1)
    unfinished.save(work(b"good"), uri, 1)
    uris.put(text.encode("latin-1"), f"{uri}/{2:012}.json")
    assert unfinished.load(uri, tmp_path / "fetched") == 1
    assert "version 2" in caplog.text and not (tmp_path / "x").exists()


def test_a_local_store_takes_no_room_twice(tmp_path, work, monkeypatch):
    monkeypatch.setenv("INRANKER_STORE", str(tmp_path / "store"))
    uri, path = unfinished.place("distill", 1), work(b"large")
    unfinished.save(path, uri, 1)
    assert path.stat().st_nlink == 2
    with local.atomic_write(path) as out:
        out.write(b"the next one")
    unfinished.load(uri, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"large", "a file that is replaced is another file"


def test_what_is_left_is_told_with_size_and_age(store, work):
    before = time.time()
    for stage, number in (("distill", 1), ("evaluate", 2)):
        unfinished.save(work(b"12345"), unfinished.place(stage, number), 1)
    found = list(unfinished.left(store))
    assert [each.uri for each in found] == [unfinished.place("distill", 1), unfinished.place("evaluate", 2)]
    assert all(each.size > 5 and before - 5 < each.changed < time.time() + 5 for each in found)
    assert list(unfinished.left(f"{store}/nowhere")) == []


SAVING = """
import os, signal, sys
from pathlib import Path
from inranker_flow.storage import uris
from inranker_flow.store import unfinished

put = uris.put
def killed(data, uri):  # the pointer's turn: all of the content is there
    os.kill(os.getpid(), signal.SIGKILL)
unfinished.save(Path(sys.argv[1]), sys.argv[3], 1)
uris.put = killed
unfinished.save(Path(sys.argv[2]), sys.argv[3], 2)
"""


def test_a_writer_that_is_killed_leaves_the_version_before(tmp_path, store, work):
    uri = unfinished.place("distill", 1)
    command = [sys.executable, "-c", SAVING, str(work(b"whole")), str(work(b"half of it")), uri]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -signal.SIGKILL
    assert unfinished.load(uri, tmp_path / "fetched") == 1 and (tmp_path / "fetched").read_bytes() == b"whole"


def test_a_store_that_does_not_answer_is_no_beginning_from_nothing(tmp_path, s3, s3_server, work, monkeypatch, caplog):
    monkeypatch.setenv("INRANKER_STORE", s3)
    monkeypatch.setattr(s3_client, "PAUSE", 0.01)
    uri = unfinished.place("distill", 1)
    unfinished.save(work(b"paid for"), uri, 1)
    with S3Faults(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3_client.client.cache_clear()
        proxy.refuse = lambda *_: (403, "AccessDenied")
        with refuses("s3-refused"):
            unfinished.load(uri, tmp_path / "fetched")
        unfinished.remove(uri)
        assert "unfinished work of a stage that is done is left" in caplog.text
    s3_client.client.cache_clear()


@pytest.mark.parametrize("options", [["--unfinished", "7"], ["--dry-run"]])
def test_make_clean_needs_no_package(tmp_path, options):
    """It works before the environment is there: a Python without packages, in a folder of runs with unfinished work."""
    path = tmp_path / "run" / "artifacts" / "store" / "unfinished" / "distill" / "1"
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"12345")
    (tmp_path / "run" / ".inranker-run").touch()
    bare = [sys.executable, "-S", "-m", "inranker_flow", "clean", "--run-dir", str(tmp_path / "run"), *options]
    environment = {"PYTHONPATH": str(Path(unfinished.__file__).parents[2]), "PATH": os.environ["PATH"]}
    done = subprocess.run(bare, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "unfinished" in done.stdout and "5 bytes" in done.stdout, done.stderr
