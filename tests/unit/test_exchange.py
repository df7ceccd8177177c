"""Artifacts through a store, where the runner hands on only paths."""

from __future__ import annotations

import pytest

from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.execution import artifact_transfer
from inranker_flow.storage import uris
from inranker_flow.storage.local import atomic_write


def artifact(folder):
    (folder / "runs").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "runs" / "bm25.trec").write_bytes(b"a Q0 b 1 2.0 bm25\n")
    write_manifest(folder, dataset="toy", stage="test")
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_what_was_moved_is_read_again_whole(kind, request, tmp_path, monkeypatch):
    root = request.getfixturevalue("s3") if kind == "s3" else f"file://{tmp_path}/store"
    monkeypatch.setenv("INRANKER_ARTIFACTS", f"{root}/")
    folder = artifact(tmp_path / "labels")
    before = content(folder)
    artifact_transfer.publish(folder)
    assert set(content(folder)) == {"manifest.json", artifact_transfer.POINTER}, (
        "the manifest stays: caches and digests read it"
    )
    assert read_manifest(folder).dataset == "toy"
    assert content(artifact_transfer.fetch(folder)) == before


def test_without_a_store_nothing_moves(tmp_path, monkeypatch):
    monkeypatch.delenv("INRANKER_ARTIFACTS", raising=False)
    folder = artifact(tmp_path / "labels")
    before = content(folder)
    artifact_transfer.publish(folder)
    assert content(folder) == before and artifact_transfer.fetch(folder) == folder


def test_an_upload_that_breaks_leaves_the_artifact_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_ARTIFACTS", f"file://{tmp_path}/store")
    folder = artifact(tmp_path / "labels")
    before = content(folder)
    real, seen = atomic_write, []

    def full_disk(path):
        seen.append(path)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(uris, "atomic_write", full_disk)  # a fault in the middle, around the real code
    with pytest.raises(OSError, match="No space"):
        artifact_transfer.publish(folder)
    assert content(folder) == before and artifact_transfer.fetch(folder) == folder


def test_the_same_content_has_the_same_address(tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_ARTIFACTS", f"file://{tmp_path}/store")
    for name in ("one", "two"):
        artifact_transfer.publish(artifact(tmp_path / name))
    pointers = {(tmp_path / name / artifact_transfer.POINTER).read_text() for name in ("one", "two")}
    assert len(pointers) == 1
