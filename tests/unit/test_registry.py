"""The registry and the stage `promote`, on a real MLflow database with real T5 students."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inranker_flow.artifacts.manifest import write_manifest
from inranker_flow.config.sections import CorpusConfig, EvaluateConfig, PromoteConfig, ScoringConfig
from inranker_flow.errors import NoAnswer, UserError
from inranker_flow.evaluation.reranking import Reranking
from inranker_flow.evaluation.systems import System
from inranker_flow.model_registry import history, reference_scores, registration, registry, stored_files
from inranker_flow.model_registry.trained_on import identity
from inranker_flow.reading import WHOLE
from inranker_flow.tracking import connection
from inranker_flow.tracking.records import left_out_of
from inranker_flow.tracking.runs import current_run_id, pipeline_run, stage_run
from tests.promoting import VERSIONS, evaluation, previous, promote, reasons, registry_of_a_module, stored, student
from tests.refusals import refuses

#: Without test sets there is nothing to time.
PASSAGES = ["the inn lies on the hill", "a cure for the cough", ""]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with registry_of_a_module(tmp_path_factory.mktemp("mlflow")) as folder:
        yield folder


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    return [student(folder / str(seed), seed) for seed in range(5)]


def test_from_first_model_to_champion_to_a_refused_challenger(database, students, tmp_path):
    first, second, third, fourth = students[:4]
    e1 = evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6)
    stats = promote("toy", first, e1, "", "k1")
    assert (stats.verdict, stats.promoted, stats.version) == ("PROMOTE", 1, "1")
    serving = registry.champion("toy")
    assert serving.reference == "models:/toy/1"
    decision = json.loads((tmp_path / "e1-decision" / "decision.json").read_text())
    assert decision["verdict"] == "PROMOTE" and decision["against"] == "bm25" and decision["reasons"]
    kept = [each.path for each in connection.client().list_artifacts(serving.tags["inranker.mlflow_run"])]
    assert "report.html" in kept, "the evidence stays beside"
    page = (tmp_path / "e1.html").read_text()
    assert "<strong>PROMOTE</strong>" in page and "toy version 1 serves now, as the first." in page

    worse = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.5, champion=0.6)
    stats = promote("toy", second, worse, "models:/toy/1", "k2")
    assert (stats.verdict, stats.version) == ("REJECT", "2")
    assert registry.champion("toy").version == "1"
    assert connection.client().get_model_version_by_alias("toy", "challenger").version in ("2", 2)

    better = evaluation(tmp_path / "e3", bm25=0.2, phase2=0.7, champion=0.6)
    stats = promote("toy", third, better, "models:/toy/1", "k3")
    assert (stats.verdict, stats.version) == ("PROMOTE", "3") and registry.champion("toy").version == "3"
    assert registry.challenger("toy") is None, "what serves is none, and what was refused before it is none any more"

    # The same work again (its outputs were lost): the same version, no copy.
    again = promote("toy", third, better, "models:/toy/1", "k3")
    assert (again.verdict, again.version) == ("PROMOTE", "3")
    assert [(each.source, each.target) for each in history.read("toy")] == [("", "1"), ("1", "3")]

    # Other code makes the champion again: no gain over itself, and its record is not rewritten.
    same = evaluation(tmp_path / "e4", bm25=0.2, phase2=0.7, champion=0.7)
    again = promote("toy", third, same, "models:/toy/3", "k9")
    serving = registry.champion("toy")
    assert (again.verdict, serving.version) == ("HOLD", "3")
    assert (serving.tags["run_key"], serving.tags["inranker.verdict"]) == ("k3", "PROMOTE")

    # Measured against a champion that no longer serves: nothing moves, however good it looks.
    stats = promote("toy", fourth, better, "models:/toy/1", "k4")
    assert stats.verdict == "HOLD" and registry.champion("toy").version == "3"
    assert reasons(better)[0]["code"] == "champion_changed"
    assert "became champion after this evaluation began" in reasons(better)[0]["message"]
    page = (tmp_path / "e3.html").read_text()
    assert "<strong>HOLD</strong>" in page and "became champion after this evaluation began" in page


def test_a_version_says_where_it_comes_from(database, students, tmp_path, monkeypatch):
    monkeypatch.setenv("INRANKER_CODE_VERSION", "c0de")
    monkeypatch.setenv("INRANKER_KFP_RUN_ID", "run-7")
    monkeypatch.setenv("INRANKER_GIT_REVISION", "9b0e2c4-dirty")
    measured = evaluation(tmp_path / "e", bm25=0.2, phase2=0.6)
    promote("tagged", students[0], measured, "", "k1")
    found = connection.client().get_model_version_by_alias("tagged", "champion")
    weights = json.loads((students[0] / "manifest.json").read_text())["files"]["model.safetensors"]
    tags = dict(found.tags)
    files = json.loads(tags.pop(stored_files.FILES))
    assert len(tags.pop(registry.IDENTITY)) == 64
    assert files["artifacts/checkpoint/model.safetensors"] == [
        (students[0] / "model.safetensors").stat().st_size,
        weights,
    ]
    assert {"MLmodel", "pyfunc.py", "code", "artifacts/checkpoint/tokenizer.json"} < set(files)
    assert "artifacts/checkpoint/README.md" not in files, "a card may be written better"
    assert tags == {
        "inranker.verdict": "PROMOTE",
        "inranker.reason": reasons(measured)[0]["message"],
        "inranker.against": "",
        "inranker.datasets": "medicines",
        "inranker.code": "c0de",
        "inranker.git": "9b0e2c4-dirty",
        "inranker.teacher": "castorini/monot5-3b-msmarco-10k@0123abc",
        "inranker.mlflow_run": found.run_id,  # no run of a training is known
        "inranker.kfp_run": "run-7",
        "run_key": "k1",
        "inranker.corpus.medicines": identity(CorpusConfig("demo:target/1", "medicines")),
        "inranker.work": "work",
        "digest.evaluation": json.loads((measured / "manifest.json").read_text())["files"]["measures.parquet"],
        "digest.data.inns": "a" * 64,
        "digest.data.medicines": "c" * 64,
        "digest.model": weights,
    }
    [entry] = history.read("tagged")
    assert (entry.kind, entry.who, entry.applied) == ("PROMOTE", "pipeline run run-7", True)
    assert entry.details["digest"] == weights and entry.why == reasons(measured)[0]["message"]


def test_a_version_is_a_model_of_the_run_that_trained_it_with_its_numbers_and_an_example(database, students, tmp_path):
    import mlflow

    with stage_run("distill_phase2", "medicines") as training:
        training.log_outputs({"model": students[1]})
    folder = evaluation(tmp_path / "e", bm25=0.2, phase2=0.6)
    asked = "where is the inn?"
    pairs = [(asked, "It lies on the hill."), (asked, "Another text."), ("x", "Of another query.")]
    reference_scores.write(reference_scores.ReferenceScores("float32", pairs, [0.0, 0.0, 0.0]), folder)
    write_manifest(folder, dataset="medicines", stage="evaluate")
    with stage_run("promote") as promoting:
        promote("logged", students[1], folder, "", "k1")
    client = connection.client()
    version = client.get_model_version("logged", "1")
    model = client.get_logged_model(registry.version("logged", "1").model_id)
    assert (version.run_id, model.source_run_id, model.status) == (training.run_id, training.run_id, "READY")
    assert [each.model_id for each in client.get_run(training.run_id).outputs.model_outputs] == [model.model_id]
    assert [each.model_id for each in client.get_run(promoting.run_id).inputs.model_inputs] == [model.model_id]
    numbers = {each.key: each.value for each in model.metrics}
    assert numbers["nDCG_at_10/medicines"] == numbers["nDCG_at_10/mean"] == 0.6 and numbers["latency_p95_ms"] == 30
    assert {each.run_id for each in model.metrics} == {promoting.run_id}

    files = stored("logged")
    assert not [line for line in (files / "MLmodel").read_text().splitlines() if "/tmp" in line or ": /" in line]
    assert json.loads((files / "input_example.json").read_text()) == [
        {"query": "where is the inn?", "passages": ["It lies on the hill.", "Another text."]}
    ]
    code = [each for each in files.glob("code/**/*") if each.is_file()]
    assert len(code) < 80 and not [each for each in code if {"stages", "serving", "retrieval"} & {*each.parts}]
    # The description begins with code that runs as it stands.
    [block] = re.findall(r"```python\n(.*?)```", version.description.partition("\n## How well")[0], re.DOTALL)
    space: dict = {}
    exec(block, space)
    assert space["QUERY"] == "where is the inn?" and (Path(space["FOLDER"]) / "README.md").is_file()
    [scores] = mlflow.pyfunc.load_model("models:/logged@champion").predict(space["model"].input_example)
    assert len(scores) == 2


def test_targets_that_were_left_out_are_told_and_not_taken_for_done(database, students, tmp_path):
    targets = tuple(CorpusConfig(uri=f"demo:target/{n}", name=name) for n, name in enumerate(("medicines", "lamps"), 1))
    why = {"lamps": "prepare_corpus: corpus.jsonl line 2: not JSON"}
    measured = evaluation(tmp_path / "e1", left_out=why, bm25=0.2, phase2=0.6)
    with pipeline_run("inranker", {}) as parent, stage_run("promote"):
        assert promote("partial", students[0], measured, "", "k1", targets=targets).verdict == "PROMOTE"
    version = registry.champion("partial")
    assert version is not None
    assert "inranker.corpus.medicines" in version.tags and "inranker.corpus.lamps" not in version.tags
    assert version.tags["inranker.left_out.lamps"] == why["lamps"]
    [entry] = history.read("partial")
    assert entry.why.endswith("; left out: lamps")
    assert "to be adapted to lamps too, which was left out: prepare\\_corpus: corpus.jsonl line 2" in (
        connection.client().get_model_version("partial", version.version).description
    )
    decision = json.loads((tmp_path / "e1-decision" / "decision.json").read_text())
    assert decision["left_out"] == why and "Left out: lamps" in (tmp_path / "e1.html").read_text()
    assert left_out_of(parent) == why
    # The same work again, with the target mended: measured against what serves, and not against what served before it.
    assert history.opponent("partial", "k1") == version.reference
    better = evaluation(tmp_path / "e2", bm25=0.2, champion=0.6, phase2=0.8)
    assert promote("partial", students[1], better, version.reference, "k1", targets=targets).verdict == "PROMOTE"
    after = registry.champion("partial")
    assert after and "inranker.corpus.lamps" in after.tags and "inranker.left_out.lamps" not in after.tags
    assert history.opponent("partial", "k1") == version.reference


def test_a_policy_may_ask_for_every_target(database, students, tmp_path):
    why = {"lamps": "prepare_corpus: corpus.jsonl line 2: not JSON"}
    measured = evaluation(tmp_path / "e1", left_out=why, bm25=0.2, phase2=0.6)
    policy = PromoteConfig(model_name="whole", left_out="hold")
    held = promote("whole", students[0], measured, "", "k1", policy=policy)
    assert held.verdict == "HOLD" and registry.champion("whole") is None
    first = reasons(measured)[0]
    assert first["code"] == "target_left_out" and "lamps" in first["message"] and why["lamps"] in first["message"]
    # A run with all of its targets is decided as ever.
    whole = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.6)
    assert promote("whole", students[0], whole, "", "k2", policy=policy).verdict == "PROMOTE"


def test_the_card_lies_in_the_folder_and_does_not_change_the_model(database, students, tmp_path):
    promote("carded", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    card = (stored_files.fetch("models:/carded/1") / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "pipeline_tag: text-ranking" in card and "| medicines | 30 |" in card
    assert "medicines" in connection.client().get_model_version("carded", "1").description
    assert not (students[0] / "README.md").exists(), "the artifact of phase 2 is left as it was"
    again = promote("carded", students[0], evaluation(tmp_path / "e2", bm25=0.3, phase2=0.7), "", "k2")
    assert again.version == "1", "other numbers, another card, the same weights"


def test_a_champion_that_could_not_be_measured_is_held_and_named(database, students, tmp_path):
    promote("held", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    blind = evaluation(tmp_path / "e2", {"champion": "its weights are damaged"}, bm25=0.2, phase2=0.9)
    stats = promote("held", students[1], blind, "models:/held/1", "k2")
    assert stats.verdict == "HOLD" and registry.champion("held").version == "1"
    [reason] = reasons(blind)
    assert reason["code"] == "champion_unmeasured" and "its weights are damaged" in reason["message"]


def test_damaged_weights_of_a_version_are_refused(database, students, tmp_path):
    promote("damaged", students[0], evaluation(tmp_path / "e", bm25=0.2, phase2=0.6), "", "k1")
    weights = stored("damaged") / "artifacts" / "checkpoint" / "model.safetensors"
    stored_files._fetched.clear()  # as in another process, which has not looked at it yet
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with refuses("registry-damaged", "damaged/1"):
        stored_files.fetch("models:/damaged@champion")
    content[-1] ^= 1
    weights.write_bytes(content)
    assert (stored_files.fetch("models:/damaged@champion") / weights.name).read_bytes() == content


#: What a person, a disk or an interrupted copy does to a file.
DAMAGES = {
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"  "),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


def test_every_file_of_a_version_is_what_was_registered(database, students, tmp_path):
    promote("whole", students[0], evaluation(tmp_path / "e", bm25=0.2, phase2=0.6), "", "k1")
    model = stored("whole")
    checkpoint = model / "artifacts" / "checkpoint"

    def said() -> str:
        stored_files._fetched.clear()  # as in another process, which has not looked at it yet
        with pytest.raises(stored_files.Damaged) as caught:
            stored_files.fetch("models:/whole/1")
        assert "\n" not in str(caught.value) and str(caught.value).endswith("make rollback WHY=...")
        return str(caught.value)

    decisive = sorted(path for path in checkpoint.iterdir() if path.name != "README.md")
    assert {"config.json", "tokenizer.json", "generation_config.json", "training.json"} < {
        each.name for each in decisive
    }
    outside = [model / name for name in ("MLmodel", "pyfunc.py", "code/inranker_flow/rankers/monot5.py")]
    for path in (*decisive, *outside):
        kept = path.read_bytes()
        for what in DAMAGES if path.name == "config.json" else ("changed", "gone"):
            DAMAGES[what](path)
            name = "code" if path.suffix == ".py" and path.name != "pyfunc.py" else path.name
            expected = f"models:/whole/1: {name} {'is gone' if what == 'gone' and name != 'code' else 'has changed'}"
            message = said()
            assert expected in message or (path.suffix == ".safetensors" and "are not those" in message), (path, what)
            listed = stored_files.damage("models:/whole/1")
            assert bool(listed) == (path.parent == checkpoint and what != "changed"), (path, what, listed)
            path.write_bytes(kept)
    for path in (checkpoint / "adapter_config.json", checkpoint / "pytorch_model.bin", model / "code" / "torch.py"):
        path.write_text("{}")
        assert "was not registered" in said() or path.name == "torch.py"
        path.unlink()

    # What may change: the card, and what Python and MLflow leave behind.
    (checkpoint / "README.md").write_text("A better card.")
    (model / "code" / "inranker_flow" / "__pycache__").mkdir()
    (model / "code" / "inranker_flow" / "__pycache__" / "x.pyc").write_bytes(b"x")
    stored_files._fetched.clear()
    assert (stored_files.fetch("models:/whole/1") / "config.json").is_file() and not stored_files.damage(
        "models:/whole/1"
    )

    connection.client().set_model_version_tag("whole", "1", stored_files.FILES, '{"MLmodel": 3}')
    assert f"its tag {stored_files.FILES} was changed" in said()


def test_a_registry_of_older_code_is_read_and_goes_on(database, students, tmp_path, caplog):
    """Its versions were files of the run of `promote`, the champion was the challenger too, and its log had another name."""
    promote("template", students[0], evaluation(tmp_path / "e", bm25=0.2, phase2=0.6), "", "k1")
    client, run_id = connection.client(), current_run_id("older")
    client.log_artifacts(run_id, str(stored("template")), "model")
    client.create_registered_model("older")
    weights = registry.champion("template").tags[registry.DIGEST]
    tags = {registry.DIGEST: weights, "run_key": "k1", "inranker.against": ""}
    client.create_model_version("older", f"runs:/{run_id}/model", run_id, tags=tags)
    for alias in (registry.CHAMPION, registry.CHALLENGER):
        client.set_registered_model_alias("older", alias, "1")
    client.create_registered_model("older-history")
    entry = {"kind": "PROMOTE", "from": "", "to": "1", "who": "a run", "why": "better", "after": "0", "applied": "true"}
    given = {f"inranker.{key}": value for key, value in (entry | {"digest": weights}).items()}
    client.create_model_version("older-history", "models:/older/1", tags=given)

    assert [each.target for each in history.read("older")] == ["1"] and not stored_files.damage("models:/older/1")
    with caplog.at_level("INFO", "inranker_flow"):
        assert (stored_files.fetch("models:/older/1") / "config.json").is_file()
    assert "models:/older/1 was registered before all its files were recorded: its weights alone" in caplog.text
    assert registry.digest("models:/older/1") == weights
    measured = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.6, champion=0.6)
    assert promote("older", students[0], measured, "models:/older/1", "k2").version == "1", (
        "the same model is recognised"
    )
    better = evaluation(tmp_path / "e3", bm25=0.2, phase2=0.7, champion=0.6)
    assert promote("older", students[1], better, "models:/older/1", "k3").verdict == "PROMOTE"
    assert [each.target for each in history.read("older")] == ["1", "2"] and registry.challenger("older") is None
    assert previous("older")[1] == "1"
    assert [each.name for each in client.search_registered_models("name LIKE '%older%'")] == [
        "older",
        "zz-older-history",
    ]

    (file,) = (database / "mlartifacts" / run_id).rglob("model.safetensors")
    file.write_bytes(b"x" * file.stat().st_size)
    stored_files._fetched.clear()
    with pytest.raises(stored_files.Damaged, match="its stored weights are not those"):
        stored_files.fetch("models:/older/1")
    file.unlink()
    for each in file.parent.iterdir():
        each.unlink()
    assert "its files are gone" in stored_files.damage("models:/older/1")


def test_the_same_weights_with_another_tokenizer_or_length_are_another_model(database, students, tmp_path):
    first = promote("same", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    longer = student(tmp_path / "longer", 0, max_length=256)
    changed = shutil.copytree(students[0], tmp_path / "changed")
    config = json.loads((changed / "tokenizer_config.json").read_text())
    (changed / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77}))
    write_manifest(changed, dataset="medicines", stage="distill")
    measured = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.6, champion=0.6)
    versions = {promote("same", each, measured, "models:/same/1", "k2").version for each in (longer, changed, longer)}
    assert first.version == "1" and versions == {"2", "3"}
    digests = {registry.digest(f"models:/same/{number}") for number in "123"}
    assert len(digests) == 3 and len({registry.version("same", n).tags[registry.DIGEST] for n in "123"}) == 1


#: What may happen to the evidence, or to the student, after it was written.
TAMPERED = {
    "the measures": ("e", "measures.parquet", "other content than its manifest says"),
    "the summary": ("e", "summary.json", "other content than its manifest says"),
    "the weights": ("s", "model.safetensors", "other content than its manifest says"),
    "the tokenizer": ("s", "tokenizer.json", "other content than its manifest says"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_nothing_that_was_changed_after_it_was_written_is_promoted(database, students, tmp_path, what):
    folder, name, said = TAMPERED[what]
    promote("tampered", students[0], evaluation(tmp_path / "e0", bm25=0.2, phase2=0.6), "", "k1")
    before = len(registry.versions("tampered"))
    measured = evaluation(tmp_path / "e", bm25=0.2, phase2=0.7, champion=0.6)
    shutil.copytree(students[1], tmp_path / "s")
    path = tmp_path / folder / name
    DAMAGES["changed"](path)
    with pytest.raises(UserError, match=f"{name}: {said}.* run its stage again") as caught:
        promote("tampered", tmp_path / "s", measured, "models:/tampered/1", "k2")
    assert "\n" not in str(caught.value) and len(registry.versions("tampered")) == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("summary.json", "{}", "holds no 'headline'"),
        ("summary.json", "[]", "holds no JSON object"),
        ("summary.json", "", "not readable"),
        ("training.json", "{}", "holds no 'start'"),
        ("training.json", "null", "holds no JSON object"),
    ],
)
def test_a_record_that_says_nothing_is_told_in_one_line(database, students, tmp_path, name, text, said):
    """Written like that, and so in its manifest."""
    measured = evaluation(tmp_path / "e", bm25=0.2, phase2=0.7)
    model = shutil.copytree(students[1], tmp_path / "s")
    folder = measured if name == "summary.json" else model
    (folder / name).write_text(text)
    write_manifest(folder, dataset="medicines", stage="evaluate" if folder == measured else "distill")
    with pytest.raises(UserError, match=f"{name}: {said}"):
        promote("empty", model, measured, "", "k")
    assert registry.champion("empty") is None


def test_a_version_whose_upload_was_damaged_does_not_become_champion(database, students, tmp_path):
    promote("upload", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    worse = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.6, champion=0.6)
    assert promote("upload", students[1], worse, "models:/upload/1", "k2").verdict == "HOLD"
    weights = stored("upload", "2") / "artifacts" / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    better = evaluation(tmp_path / "e3", bm25=0.2, phase2=0.7, champion=0.6)
    with refuses("registry-damaged", "upload/2"):
        promote("upload", students[1], better, "models:/upload/1", "k3")
    assert registry.champion("upload").version == "1" and len(history.read("upload")) == 1


@pytest.mark.parametrize("damage", ["weights", "gone"])
def test_an_evaluation_goes_on_without_a_damaged_champion_and_says_so(database, students, tmp_path, damage):
    name = f"broken-{damage}"
    promote(name, students[0], evaluation(tmp_path / "e", bm25=0.2, phase2=0.6), "", "k1")
    folder = stored(name) / "artifacts" / "checkpoint"
    stored_files._fetched.clear()  # as in another process, which has not looked at it yet
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / "model.safetensors").write_bytes(b"")
    scoring = ScoringConfig(max_length=64)
    reranking = Reranking(EvaluateConfig(), [], WHOLE)
    reranking.add(System("phase2", str(students[1]), "", scoring))
    reranking.add(System("champion", f"models:/{name}/1", "", scoring))
    assert list(reranking.scored) == ["phase2"]
    told = "its files are gone" if damage == "gone" else "are not those that were registered"
    assert told in reranking.unmeasured["champion"]
    with refuses("not-found"):  # anything else that does not load ends the run
        reranking.add(System("phase1", str(tmp_path / "nothing"), "", scoring))


def test_an_evaluation_does_not_go_on_without_a_registry_that_is_only_away(tmp_path):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(NoAnswer, match="no MLflow server answers"):
            Reranking(EvaluateConfig(), [], WHOLE).add(System("champion", "models:/m/1", "", ScoringConfig()))
    finally:
        mlflow.set_tracking_uri(before)


def test_what_is_not_in_the_registry_is_told_in_one_line(database):
    with refuses("version-missing", "nobody/7"):
        stored_files.fetch("models:/nobody/7")
    with refuses("address-form", "NAME/VERSION"):
        stored_files.fetch("models:/nobody")
    with refuses("registry-refused", "nobody@champion"):
        stored_files.fetch("models:/nobody@champion")
    assert registry.champion("nobody") is None and registry.registered("nobody", "x", "y") is None


def test_weights_in_several_files_have_one_digest_too():
    one = stored_files.weights_digest({"model.safetensors": "aa", "config.json": "c1", "README.md": "r1"})
    assert one == "aa" == stored_files.weights_digest({"model.safetensors": "aa", "README.md": "r2"})
    parts = {"model-1-of-2.safetensors": "aa", "model-2-of-2.safetensors": "bb"}
    swapped = {"model-1-of-2.safetensors": "bb", "model-2-of-2.safetensors": "aa"}
    assert len(stored_files.weights_digest(parts)) == 64 and stored_files.weights_digest(
        parts
    ) != stored_files.weights_digest(swapped)
    assert stored_files.weights_digest({"pytorch_model.bin": "aa"}) == ""


def test_the_champion_loads_as_pyfunc_and_as_plain_folder_with_equal_scores(database, students, tmp_path):
    """In a fresh process that has no project on its path: the registered model brings its own code."""
    from inranker_flow.rankers.loading import load_ranker

    serving = registration.Serving({"max_length": 128}, VERSIONS)
    run_id = current_run_id("served")
    version = registration.register("served", students[4], "", {}, serving, run_id, "card")
    registry.set_alias(version, registry.CHAMPION)
    script = f"""
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/served@champion")
rows = pandas.DataFrame([{{"query": "where is the inn", "passages": {PASSAGES!r}}}, {{"query": "x", "passages": []}}])
print(json.dumps(model.predict(rows)))
"""
    env = {key: value for key, value in __import__("os").environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    scores = json.loads(ended.stdout.splitlines()[-1])
    expected = load_ranker(str(students[4]), ScoringConfig(max_length=128)).score(
        [("where is the inn", passage) for passage in PASSAGES]
    )
    assert scores[1] == []
    assert scores[0] == pytest.approx((expected[:, 1] - expected[:, 0]).tolist(), abs=1e-6)


def test_two_attempts_at_once_that_register_the_same_model_keep_the_first(database, students, monkeypatch):
    """As the slower of the two sees it: nothing there when it looked, a version of the other when it has written."""
    serving = registration.Serving({"max_length": 128}, VERSIONS)
    run_id = current_run_id("twice")
    first = registration.register("twice", students[0], "same", {}, serving, run_id, "card")
    real, looks = registry.registered, []

    def late(name, digest, identity):
        looks.append(name)
        return None if len(looks) == 1 else real(name, digest, identity)

    monkeypatch.setattr(registry, "registered", late)
    second = registration.register("twice", students[0], "same", {}, serving, run_id, "card")
    assert second.version == first.version == "1"
    assert [each.version for each in connection.client().search_model_versions("name = 'twice'")] in (["1"], [1])
