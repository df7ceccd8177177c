"""The registry: names, versions that are gone, commands; and artifacts that are not what their manifest says."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inranker_flow.artifacts import tables
from inranker_flow.artifacts.manifest import FILENAME, write_manifest
from inranker_flow.model_registry import history, registry
from inranker_flow.tracking import connection
from tests.databases import new_database
from tests.inputs.table import Artifact, Input, command, stage


@dataclass(frozen=True)
class Nothing:
    """Statistics of a stage that only opens its door."""

    inputs: int


# --- the registry -----------------------------------------------------------------------------------------------------


@contextmanager
def _registry(here: Path) -> Iterator[Any]:
    """An MLflow client of a new registry in ``here``; the process's own is put back at the end."""
    import mlflow

    before, told = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = new_database(here / "mlflow.db")
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    try:
        yield connection.client()
    finally:
        mlflow.set_tracking_uri(before)
        if told is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = told


def _serve(client: Any, count: int, first: str = "") -> None:
    """Versions 1 to ``count``, each of which served; their files are nowhere."""
    client.create_registered_model("inranker")
    for number in range(1, count + 1):
        tags = {registry.DIGEST: f"{first}{number}"}
        made = client.create_model_version("inranker", f"s3://nowhere/{number}", tags=tags)
        version = registry.Version("inranker", str(made.version), tags)
        assert history.move(version, "PROMOTE", "me", "better", {"digest": tags[registry.DIGEST]})


def person(*arguments: str, served: int = 0, before: Callable[[Any], object] = lambda client: None) -> Any:
    """A row's act: a command of `inranker_flow.commands.champion` where so many versions have served, and ``before`` was done."""

    def act(here: Path) -> int:
        with _registry(here) as client:
            if served:
                _serve(client, served)
            before(client)
            return command(*arguments)

    return act


def delete(*numbers: str) -> Callable[[Any], None]:
    def act(client: Any) -> None:
        for number in numbers:
            client.delete_model_version("inranker", number)

    return act


def take_alias(client: Any) -> None:
    client.delete_registered_model_alias("inranker", "champion")


def make_anew(client: Any) -> None:
    """Delete the registered model and make another of its name: numbers begin at 1 again."""
    client.delete_registered_model("inranker")
    client.create_registered_model("inranker")
    for number in (1, 2):
        client.create_model_version("inranker", "s3://nowhere/new", tags={registry.DIGEST: f"new{number}"})


def opponent(name: str, *before: Callable[[Any], object], served: int = 0) -> Callable[[Path], int]:
    """A row's act: what preflight asks the registry, in a stage."""

    def looks() -> Nothing:
        found = history.opponent(name, "key")
        logging.getLogger("inranker_flow").info("the opponent is %r", found)
        return Nothing(0)

    def act(here: Path) -> int:
        with _registry(here) as client:
            if served:
                _serve(client, served)
            for each in before:
                each(client)
            return stage(looks, name="preflight", configs={})

    return act


WHY = ("--why", "a reason")
REGISTRY = [
    Input("a registry that nobody made", lambda here: command("history"), ("no registry", "RUN_DIR"),
          env=(("MLFLOW_TRACKING_URI", ""),)),
    Input("the history of a model that nobody made", person("history"), ("no version of inranker serves",), 0),
    Input("a history in which all is well", person("history", served=2), ("version 2 of inranker serves",), 0),
    Input("a history with a version that is gone", person("history", served=2, before=delete("1")),
          ("cannot serve again: version 1 is gone", "version 2 of inranker serves"), 0),
    Input("a history whose champion is gone", person("history", served=2, before=delete("2")),
          ("no champion serves, and the last one cannot serve again: version 2 is gone", "make rollback"), 0),
    Input("a history whose alias was taken away", person("history", served=2, before=take_alias),
          ("the alias was taken from version 2; bring it back", "make promote VERSION=2"), 0),
    Input("a history of a model that was made anew", person("history", served=2, before=make_anew),
          ("cannot serve again: version 1 is another model now; version 2 is another model now",), 0),
    Input("a rollback without a history", person("rollback", *WHY), ("no champion of this name is known",)),
    Input("a rollback from the first", person("rollback", *WHY, served=1), ("no champion before version 1 is known",)),
    Input("a rollback to what is gone", person("rollback", *WHY, served=2, before=delete("1")),
          ("no champion before version 2 is left: version 1 is gone", "make promote VERSION=N")),
    Input("a rollback past all that is gone", person("rollback", *WHY, served=3, before=delete("1", "2")),
          ("version 2 is gone; version 1 is gone", "make promote VERSION=N")),
    Input("a rollback where the champion is gone, too", person("rollback", *WHY, served=2, before=delete("1", "2")),
          ("is left: version 2 is gone; version 1 is gone",)),
    Input("a rollback to other models of the same numbers", person("rollback", *WHY, served=2, before=make_anew),
          ("is left: version 2 is another model now; version 1 is another model now",)),
    Input("a rollback without a reason", person("rollback", served=2), ("WHY: say why",)),
    Input("a version that is gone", person("promote", *WHY, "--version", "1", served=2, before=delete("1")),
          ("models:/inranker/1: not in the model registry", "make history")),
    Input("a version of no model", person("promote", *WHY, "--version", "1"), ("not in the model registry",)),
    *(
        Input(f"version {number!r}", person("promote", *WHY, f"--version={number}", served=1),
              ("VERSION: expected the number of a version of inranker",))
        for number in ("", "two", "1.0", "-1", "²", "1 ", "99999999999999999999")
    ),
    *(
        Input(f"a model called {name[:12]!r} ({what})", person(*arguments, f"--model={name}"),
              ("promotion.model_name: ", said))
        for what, arguments in (("history", ["history"]), ("rollback", ["rollback", *WHY]),
                                ("promote", ["promote", *WHY, "--version", "1"]))
        for name, said in (("a/b", "'/'"), ("a:b", "':'"), ("", "is empty"), ("a" * 300, "300 characters"))
    ),
    *(
        Input(f"preflight for a model called {name[:12]!r}", opponent(name), ("promotion.model_name: ", said))
        for name, said in (("a/b", "'/'"), ("", "is empty"), (" ", "is empty"), ("n" * 300, "300 characters"),
                           ("a@b", "'@'"), ("..", "is a path"), (" a", "blank"), ("a\nb", "cannot be seen"),
                           ("a?b", "'?'"), ("""it's "a" """.strip(), "quotes"))
    ),
    *(
        Input(f"preflight for a model called {name!r} that nobody made", opponent(name), ("the opponent is ''",), 0)
        for name in ("it's", 'say "hi"', "söker", "a b", "a" * 240)
    ),
    Input("preflight where a champion serves", opponent("inranker", served=2), ("models:/inranker/2",), 0),
    Input("preflight where the champion was deleted", opponent("inranker", delete("2"), served=2),
          ("version 2 is gone", "until then the gate holds every student (champion_gone)", "the opponent is ''"), 0),
    Input("preflight where the alias was taken away", opponent("inranker", take_alias, served=2),
          ("the alias was taken from version 2", "champion_gone"), 0),
    Input("preflight where the model was made anew", opponent("inranker", make_anew, served=2),
          ("version 2 is another model now", "champion_gone"), 0),
]  # fmt: skip


# --- artifacts --------------------------------------------------------------------------------------------------------


def opens(labels: list[Path] = [], student: Path | None = None, collection: Path | None = None) -> Nothing:  # noqa: B006
    return Nothing(len(labels) + bool(student) + bool(collection))


def labels(folder: Path, name: str = "teacher_label") -> Path:
    folder.mkdir()
    rows = {"query_id": ["q1", "q2"], "doc_id": ["d1", "d2"], "relevance": [1, 0]}
    tables.write(tables.QRELS, folder / "qrels.parquet", rows)
    (folder / "summary.json").write_text('{"measures": {"nDCG@10": 0.5}}')
    write_manifest(folder, dataset="inns", stage=name)
    return folder


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder, dataset="inns", stage="distill")
    return folder


def door(change: Callable[[Path], object], name: str = "evaluate", metadata: str = "") -> Callable[[Path], int]:
    """A row's act: a stage is given labels after ``change`` was done to them."""

    def act(here: Path) -> int:
        folder = labels(here / "labels")
        change(folder)
        artifact = Artifact(folder)
        artifact.metadata.update({"digest": metadata} if metadata else {})
        return stage(opens, name=name, configs={}, inputs={"labels": [artifact]})

    return act


def edited(folder: Path) -> None:
    """Other content of the same length."""
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace("0.5", "0.9"))


def cut(folder: Path) -> None:
    (folder / "qrels.parquet").write_bytes((folder / "qrels.parquet").read_bytes()[:100])


def as_if_old(folder: Path) -> None:
    """Edited, with the time of before."""
    found = (folder / "summary.json").stat()
    edited(folder)
    os.utime(folder / "summary.json", ns=(found.st_atime_ns, found.st_mtime_ns - 10**12))


def older_manifest(folder: Path) -> None:
    """As code wrote it that knew no sizes."""
    said = json.loads((folder / FILENAME).read_text())
    del said["sizes"]
    (folder / FILENAME).write_text(json.dumps(said))


def manifest(text: str | bytes) -> Callable[[Path], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / FILENAME).write_bytes(data)


def said(name: str, value: Any) -> Callable[[Path], object]:
    """One value of the manifest is another."""
    return lambda folder: manifest(json.dumps({**json.loads((folder / FILENAME).read_text()), name: value}))(folder)


def into_a_folder(folder: Path) -> None:
    (folder / "summary.json").unlink()
    (folder / "summary.json").mkdir()


def with_student(change: Callable[[Path], object]) -> Callable[[Path], int]:
    def act(here: Path) -> int:
        folder = model(here / "model")
        change(folder)
        return stage(opens, name="evaluate", configs={}, inputs={"student": Artifact(folder)})

    return act


def moved(text: str) -> Callable[[Path], object]:
    """Only manifest and pointer are left, as of an artifact in a store."""

    def act(folder: Path) -> None:
        (folder / "qrels.parquet").unlink()
        (folder / "summary.json").unlink()
        (folder / "moved-to.txt").write_text(text.replace("HERE", str(folder.parent)))

    return act


def moved_to_another(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    (other / "summary.json").write_text("{}")
    write_manifest(other, dataset="inns", stage="teacher_label")
    moved(str(other))(folder)


RUN_AGAIN = "and run its stage again"
ARTIFACTS = [
    Input("an artifact as it was written", door(lambda folder: None), ("inputs 1",), 0),
    Input("an artifact beside which a file manager has left a note",
          door(lambda folder: (folder / ".DS_Store").write_text("x")), ("inputs 1",), 0),
    Input("an artifact of older code", door(older_manifest), ("inputs 1",), 0),
    Input("an artifact of older code that was edited",
          door(lambda folder: (older_manifest(folder), edited(folder)), "retrieve"), ("summary.json: other content",)),
    Input("a table that was cut", door(cut), ("qrels.parquet: 100 bytes long and not", "teacher_label inns", RUN_AGAIN)),
    Input("a table that was cut, where sizes alone are looked at", door(cut, "retrieve"), ("100 bytes long",)),
    Input("a table that was emptied", door(lambda folder: (folder / "qrels.parquet").write_bytes(b"")),
          ("qrels.parquet: 0 bytes long",)),
    Input("a summary that was emptied", door(lambda folder: (folder / "summary.json").write_text("{}")),
          ("summary.json: 2 bytes long",)),
    Input("a table that is gone", door(lambda folder: (folder / "qrels.parquet").unlink()), ("qrels.parquet: missing",)),
    Input("a file that became a folder", door(into_a_folder), ("summary.json: no file",)),
    Input("numbers that were edited", door(edited), ("summary.json: other content than its manifest says", RUN_AGAIN)),
    Input("numbers that were edited, where new files alone are read", door(edited, "retrieve"), ("summary.json: other",)),
    Input("numbers that were edited and given their old time", door(as_if_old, "retrieve"), ("summary.json: other",)),
    Input("an artifact that is not there", door(shutil.rmtree), ("manifest.json: missing", RUN_AGAIN)),
    Input("an artifact without a manifest", door(lambda folder: (folder / FILENAME).unlink()),
          ("manifest.json: missing, so the stage that should have written this artifact did not end",)),
    *(
        Input(f"a manifest that holds {what}", door(manifest(text)), ("manifest.json: not a manifest", RUN_AGAIN))
        for what, text in (("nothing", ""), ("half of it", '{"dataset": "in'), ("a list", "[1]"), ("null", "null"),
                           ("bytes", b"\xff\xfe\x00"), ("other keys", '{"name": "inns"}'),
                           ("a number as files", '{"dataset": "a", "stage": "b", "files": 3}'))
    ),
    Input("a manifest with another dataset",
          door(lambda folder: manifest((folder / FILENAME).read_text().replace("inns", "bars"))(folder)),
          ("manifest.json: was changed after it was written",)),
    Input("an artifact that was replaced by another", door(lambda folder: None, metadata="0" * 64),
          ("of other content than when teacher_label ended",)),
    Input("an artifact of another stage",
          lambda here: stage(opens, name="promote", configs={}, inputs={"student": Artifact(labels(here / "labels"))}),
          ("student is what distill writes, and this was written by teacher_label",)),
    Input("a student as it was written", with_student(lambda folder: None), ("inputs 1",), 0),
    Input("a student with other weights of the same length",
          with_student(lambda folder: (folder / "model.safetensors").write_bytes(b"WEIGHTS")),
          ("model.safetensors: other content",)),
    Input("a student with an adapter beside it",
          with_student(lambda folder: (folder / "adapter_config.json").write_text("{}")),
          ("adapter_config.json: a file that its manifest does not know",)),
    Input("an artifact that was moved to another one", door(moved_to_another), ("not the artifact of",)),
    Input("an artifact that was moved to nowhere", door(moved("HERE/nowhere")),
          ("moved-to.txt: this artifact was moved to", "nowhere, and nothing is there; bring it back", RUN_AGAIN)),
    *(
        Input(f"an artifact that was moved to {what}", door(moved(text)), ("moved-to.txt: ", wrong, RUN_AGAIN))
        for what, text, wrong in (("an empty line", "\n", "'' is no address"), ("a relative path", "../labels", "no address"),
                                  ("a long word", "x" * 5000, "no address"), ("two places", "/a\n/b", "several lines"))
    ),
    Input("an artifact that was moved to bytes",
          door(lambda folder: (folder / "moved-to.txt").write_bytes(b"\xff\xfe")), ("moved-to.txt: cannot be read", RUN_AGAIN)),
    *(
        Input(f"a manifest whose {name} are {what}", door(said(name, value)), ("manifest.json: not a manifest", name, RUN_AGAIN))
        for name, what, value in (("sizes", "nothing", None), ("sizes", "a list", [1]), ("sizes", "a word", {"a": "big"}),
                                  ("details", "nothing", None), ("details", "a word", "x"), ("origin", "a list", []))
    ),
    Input("a manifest whose stage is a number", door(said("stage", 5)), ("manifest.json: not a manifest", "'stage'")),
    Input("a manifest that is too deep", door(manifest("[" * 200_000)), ("manifest.json: not a manifest", RUN_AGAIN)),
    Input("a table that was put beside the others",
          door(lambda folder: shutil.copy(folder / "qrels.parquet", folder / "labels.parquet")),
          ("labels.parquet: a file that its manifest does not know", RUN_AGAIN)),
]  # fmt: skip

INPUTS = [*REGISTRY, *ARTIFACTS]
