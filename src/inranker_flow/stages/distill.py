"""The stages `distill_phase1` and `distill_phase2`: soft labels and a checkpoint in, a student out.

Both are this function, with other inputs.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from inranker_flow import reading
from inranker_flow.artifacts.manifest import read_manifest, write_manifest
from inranker_flow.config.parsing import as_dict, deciding
from inranker_flow.config.sections import DistillConfig
from inranker_flow.distillation import levels, trainjob
from inranker_flow.distillation.checkpoints import Checkpoint
from inranker_flow.distillation.data import load_examples, replayed
from inranker_flow.distillation.merging import merged
from inranker_flow.distillation.processes import launch
from inranker_flow.distillation.train import DistillStats, Trainer
from inranker_flow.environment.variables import node, nodes, started_together
from inranker_flow.errors import UserError
from inranker_flow.model_registry import stored_files
from inranker_flow.rankers.checkpoints import checkpoint_identity
from inranker_flow.rankers.devices import count_processes
from inranker_flow.rankers.monot5_prompt import RENDERER_VERSION
from inranker_flow.scratch import scratch_folder
from inranker_flow.storage.local import atomic_folder
from inranker_flow.store import stage_results, unfinished
from inranker_flow.store.conditions import conditions
from inranker_flow.students.loading import load_student

log = logging.getLogger(__name__)


def distill(
    config: DistillConfig,
    training_sets: Sequence[Path],
    start: Path | None,
    model: Path,
    replay: Path | None = None,
    champion: str = "",
) -> DistillStats:
    """Train the student ``start`` (or ``config.checkpoint``) on labels/ folders and write the best one to ``model``.

    ``replay``: the source's labels, of which `config.replay` says how many are seen again. ``champion``: reference of
    the registered model (models:/NAME/VERSION, or empty) that the student is instead where `config.start` asks for it.

    ``model`` becomes a plain Hugging Face folder (fp32 safetensors, tokenizer) with training.json and a manifest. The
    best step is the one with the lowest held-out *loss*: it uses every label of the held-out queries, while rank measures
    over a few hundred queries move in jumps; Kendall's tau is reported beside it. Raises :class:`UserError` for unusable
    input and when the loss stops being finite.
    """

    started = time.monotonic()
    _check(config, model)
    if not training_sets:
        raise UserError(
            "training_sets: none given; distillation needs at least one labels/ folder", code="nothing-to-train"
        )
    if config.start == "champion":
        start = _champion(champion) or start
    reference, revision = (str(start), "") if start is not None else (config.checkpoint, config.revision)
    if not reference:
        raise UserError(
            "checkpoint: empty and no model to start from; name a checkpoint (google-t5/t5-small, a folder)",
            code="setting-missing",
        )
    if config.merge != "none" and len(training_sets) > 1:
        return _merge(config, training_sets, start, (reference, revision), model, replay)
    student = load_student(reference, config, revision)
    folders = [Path(folder) for folder in training_sets]
    replay = replay if config.replay else None
    if replay:
        folders.append(Path(replay))
    examples = levels.settled(load_examples(folders, student.reader, config.centre, config.seed), config)
    if replay:
        examples = examples.select(replayed(examples, config.replay))
    inputs = {
        "start": checkpoint_identity(reference, revision),
        "training_sets": [
            {"dataset": name, "digest": read_manifest(folder).content}
            for name, folder in zip(examples.names, folders, strict=True)
        ],
    }
    # Another number of processes or smaller parts of a batch continue the same training. Where it starts is in the inputs.
    same = {key: value for key, value in deciding(config).items() if key != "start"}
    # Below the store it may be found by a later release, or where other libraries are: their next step is another one.
    identity = [same, inputs, RENDERER_VERSION, stage_results.VERSIONS["distill_phase1"], conditions("distill_phase1")]
    folder, place = scratch_folder("distill", *identity), unfinished.place("distill", *identity)
    count = 1 if started_together() else count_processes(config.processes, "processes")
    elsewhere = trainjob.asked()
    if elsewhere or count > 1 or (nodes() > 1 and not started_together()):
        # What could be refused has been, and the texts are tokenised: the processes find them.
        job: dict[str, Any] = {
            "training_sets": [str(each.absolute()) for each in training_sets],
            "start": start and str(start.absolute()),
            "replay": replay and str(replay.absolute()),
        }
        job |= {"config": as_dict(config), "model": str(model.absolute())}
        stats = DistillStats(**(trainjob.launch(elsewhere, job) if elsewhere else launch(count, job, folder)))
    else:
        trainer = Trainer(config, examples, student)
        trainer.run(Checkpoint(folder / "checkpoint.pt", place if unfinished.shared() else ""))
        if trainer.processes.first:
            _write(model, trainer, reference, inputs)
        trainer.processes.wait()
        stats = trainer.stats(time.monotonic() - started)
    if not started_together():
        # Of several machines the first removes the copies: the stage's pod has perhaps no GPU, and so another place.
        for each in (str(folder), str(examples.store), *([place] if node() == "0" else [])):
            unfinished.remove(each)
    return stats


def _merge(
    config: DistillConfig,
    training_sets: Sequence[Path],
    start: Path | None,
    checkpoint: tuple[str, str],
    model: Path,
    replay: Path | None,
) -> DistillStats:
    """Train a student for each training set, from the same start, and write the one that their weights make together.

    ``checkpoint`` is the reference and the revision of that start. A student that is done is kept (`store.unfinished`), so a
    killed stage goes on with the next. Losses are those of the merged student on the held-out queries of all sets.
    """
    started = time.monotonic()
    alone = replace(config, merge="none", start="phase1")
    begins = checkpoint_identity(*checkpoint)
    folders, places = [], []
    for labels in training_sets:
        sources = [read_manifest(each).content for each in (labels, *([replay] if replay and config.replay else []))]
        identity = ["merge", deciding(alone), begins, sources, stage_results.VERSIONS["distill_phase1"]]
        folder, place = scratch_folder("distill", *identity) / "model", unfinished.place("merge", *identity)
        if not (folder / "training.json").is_file() and unfinished.load(place, folder) is None:
            log.info("training the student of %s, to be merged", read_manifest(labels).dataset)
            distill(alone, [labels], start, folder, replay)
            unfinished.save(folder, place, 1)
        folders.append(folder)
        places.append(place)
    # They are whole by now, with the layers that are kept.
    whole = replace(alone, layers=(), lora_rank=0)
    student = load_student(str(folders[0]), whole)
    others = (load_student(str(each), whole) for each in folders[1:])
    weights = (each.model.state_dict() for each in chain([student], others))
    student.model.load_state_dict(merged(weights, config.merge))
    examples = load_examples([Path(each) for each in training_sets], student.reader, config.centre, config.seed)
    examples = levels.settled(examples, config)
    trainer = Trainer(replace(config, processes=1), examples, student)
    records = [json.loads((each / "training.json").read_text(encoding="utf-8")) for each in folders]
    steps, seen = sum(each["steps"] for each in records), [each["inputs"] for each in records]
    trainer.measure(steps)
    sets = {json.dumps(one): one for each in seen for one in each["training_sets"]}
    record = {
        "merged": [{key: each[key] for key in ("inputs", "sets", "steps", "best_step", "looks")} for each in records]
    }
    _write(model, trainer, checkpoint[0], {"start": begins, "training_sets": list(sets.values())}, record)
    for each in (*map(str, {folder.parent for folder in folders}), str(examples.store), *places):
        unfinished.remove(each)
    return trainer.stats(time.monotonic() - started)


def _champion(reference: str) -> Path | None:
    """Return the serving model's folder; None, and a warning, where nothing serves yet."""
    if not reference:
        log.warning("start: there is no champion to go on from, so the student of phase 1 does")
        return None

    return stored_files.fetch(reference)


def _check(config: DistillConfig, model: Path) -> None:
    """Refuse before hours of training what would be refused after them."""

    if model.exists() and any(model.iterdir()):
        raise UserError(
            f"{model}: exists and is not an empty folder; remove it or give another name", code="folder-not-empty"
        )
    count_processes(config.processes, "processes")
    for name in ("batch_size", "epochs"):
        if getattr(config, name) < 1:
            raise UserError(f"{name}: {getattr(config, name)}; it must be 1 or more", code="setting-value")
    if not 0 <= config.adam_beta2 < 1:
        raise UserError(f"adam_beta2: {config.adam_beta2}; AdamW needs it from 0 to less than 1", code="setting-value")
    if not 0 <= config.holdout < 1:
        raise UserError(
            f"holdout: {config.holdout}; it is a share of the queries, from 0 to less than 1", code="setting-value"
        )


def _lineage(reference: str) -> list[dict[str, Any]]:
    """Return the records of the earlier phases, the first one first: the student's origin and its training data."""
    earlier = Path(reference) / "training.json"
    if not earlier.is_file():
        return []
    record = json.loads(earlier.read_text(encoding="utf-8"))
    return [*record.get("lineage", []), {key: record[key] for key in ("start", "inputs", "sets")}]


def _write(
    model: Path, trainer: Trainer, reference: str, inputs: dict[str, Any], more: Mapping[str, Any] | None = None
) -> None:
    """The student as a plain Hugging Face folder with its record (and what else there is to record), complete or not at all."""
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {
        "start": reference,
        "inputs": inputs,
        "lineage": _lineage(reference),
        "versions": versions,
        **trainer.record(),
        **(more or {}),
    }
    student = trainer.student
    with atomic_folder(model) as folder:
        student.save(folder)
        reads = student.reads.settings()
        (folder / reading.FILENAME).write_text(json.dumps(reads, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_manifest(
            folder,
            dataset="+".join(trainer.examples.names),
            stage="distill",
            start=reference,
            best_step=record["best_step"],
            inputs=inputs,
        )
