"""`make promote`, `make rollback` and `make history` on a real registry, through make."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from inranker_flow.commands import champion
from inranker_flow.model_registry import history, registry, stored_files
from tests.promoting import evaluation, promote, stored, student, use_database

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A RUN_DIR after three nights: 1 was promoted, 2 rejected, 3 promoted."""
    import mlflow

    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        patch.setenv(name, "")
    folder = tmp_path_factory.mktemp("run")
    use_database(folder)
    first, second, third = (student(folder / f"student{seed}", seed) for seed in range(3))
    promote("inranker", first, evaluation(folder / "e1", bm25=0.2, phase2=0.6), "", "k1")
    promote(
        "inranker", second, evaluation(folder / "e2", bm25=0.2, phase2=0.5, champion=0.6), "models:/inranker/1", "k2"
    )
    promote(
        "inranker", third, evaluation(folder / "e3", bm25=0.2, phase2=0.7, champion=0.6), "models:/inranker/1", "k3"
    )
    assert registry.champion("inranker").version == "3"
    yield folder
    mlflow.set_tracking_uri(None)
    patch.undo()


@pytest.fixture
def at_home(run_dir):
    """Whatever a test does, version 3 serves afterwards, promoted from 1."""
    yield run_dir
    if registry.champion("inranker").version != "3":
        assert history.move(registry.version("inranker", "3"), "MANUAL", "fixture", "back", {})


def make(target: str, run_dir: Path, *variables: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error; in an environment without a tracking server."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_TRACKING", "MAKE", "INRANKER_A"))
    }
    command = ["make", "--no-print-directory", target, f"RUN_DIR={run_dir}", *variables]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.long
def test_rollback_promote_and_history_through_make(at_home):
    before = len(history.read("inranker"))
    status, out, err = make("rollback", at_home, """WHY=it's "slow" on $phones""")
    assert (status, out) == (0, "inranker: version 1 serves now, in place of 3\n"), err
    assert registry.champion("inranker").version == "1"

    status, out, err = make("promote", at_home, "VERSION=2", "WHY=a look at the other one")
    assert status == 0 and out.startswith(
        "inranker: version 2 serves now, in place of 1\nThe gate had said REJECT: "
    ), err

    status, out, err = make("history", at_home)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["when", "(UTC)", "what", "from", "to", "by", "why"]
    newest, second = lines[2].split(), lines[3].split()
    assert newest[0] == str(before + 2) and newest[3:6] == ["MANUAL", "1", "2"]
    assert second[3:6] == ["ROLLBACK", "3", "1"] and second[6] == history.person()
    assert """it's "slow" on $phones""" in lines[3]
    assert lines[-1] == "version 2 of inranker serves"
    entry = history.read("inranker")[-1]
    assert entry.details["digest"] == registry.version("inranker", "2").tags["digest.model"]


def test_rollback_goes_further_back_and_then_says_that_there_is_nothing(at_home, capsys):
    assert champion.main(["rollback", "--why", "w"]) == 0
    serving = registry.champion("inranker").version
    while champion.main(["rollback", "--why", "w"]) == 0:
        assert registry.champion("inranker").version != serving
        serving = registry.champion("inranker").version
    assert serving == "1"
    assert "FAILED: inranker: no champion before version 1 is known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "--version", "2"], 'WHY: say why, it is kept in the history: make promote ... WHY="..."'),
        (["rollback", "--why", "  "], 'WHY: say why, it is kept in the history: make rollback ... WHY="..."'),
        (
            ["promote", "--version", "two", "--why", "w"],
            "VERSION: expected the number of a version of inranker, got 'two'",
        ),
        (["promote", "--version", "", "--why", "w"], "VERSION: expected the number of a version of inranker, got ''"),
        (["promote", "--version", "99", "--why", "w"], "models:/inranker/99: not in the model registry at sqlite"),
        (["rollback", "--model", "nobody", "--why", "w"], "nobody: no champion of this name is known"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(at_home, capsys, arguments, message):
    entries = history.read("inranker")
    assert champion.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"FAILED: {message}") and err.count("\n") == 1
    assert history.read("inranker") == entries and registry.champion("inranker").version == "3"


def test_what_serves_already_is_said_and_not_recorded(at_home, capsys):
    entries = history.read("inranker")
    assert champion.main(["promote", "--version", "3", "--why", "w"]) == 0
    assert capsys.readouterr().out == "inranker: version 3 serves already; nothing changed\n"
    assert history.read("inranker") == entries


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer", "training"])
def test_a_version_that_is_damaged_may_not_serve(at_home, capsys, damage):
    stored_files._fetched.clear()
    folder = stored("inranker", "2") / "artifacts" / "checkpoint"
    name = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}.get(
        damage, "training.json"
    )
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    try:
        assert champion.main(["promote", "--version", "2", "--why", "w"]) == 2
    finally:
        (folder / name).write_bytes(whole)
        stored_files._fetched.clear()
    err = capsys.readouterr().err
    assert err.startswith("FAILED: ") and err.count("\n") == 1
    expected = (
        "are not those that were registered" if damage == "weights" else f"{name} has changed since it was registered"
    )
    assert expected in err
    assert registry.champion("inranker").version == "3"


def test_a_rollback_goes_past_what_is_damaged_and_says_so(at_home, capsys):
    assert champion.main(["promote", "--version", "2", "--why", "w"]) == 0
    path = stored("inranker", "3") / "artifacts" / "checkpoint" / "generation_config.json"
    whole = path.read_bytes()
    path.unlink()
    stored_files._fetched.clear()
    try:
        assert champion.main(["rollback", "--why", "w"]) == 0
    finally:
        path.write_bytes(whole)
        stored_files._fetched.clear()
    assert capsys.readouterr().out.endswith(
        "inranker: version 1 serves now, in place of 2; skipped: version 3: generation_config.json is gone since it was "
        "registered\n"
    )
    assert registry.champion("inranker").version == "1"


def test_an_interrupted_change_and_an_alias_moved_elsewhere_are_shown(at_home, capsys):
    state = history.settle("inranker")
    history._append("inranker", state, "PROMOTE", "2", "a run", "w", {})
    assert champion.main(["history"]) == 0
    assert "version 3 of inranker serves; the change to version 2 was interrupted" in capsys.readouterr().out
    history.settle("inranker")
    registry.set_alias(registry.version("inranker", "1"), registry.CHAMPION)
    assert champion.main(["history"]) == 0
    assert "version 1 of inranker serves: its alias was moved outside of this project" in capsys.readouterr().out


def test_without_any_registry_it_says_what_to_set(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert champion.main(["history", "--run-dir", str(tmp_path)]) == 2
    assert "MLFLOW_TRACKING_URI is not set and no local run has made" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing was made"
