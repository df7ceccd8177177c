"""What every pipeline is about: both phases of InRanker, the evidence, and the decision."""

from __future__ import annotations

from typing import Any

from kfp import dsl

from components import (
    distill_phase1,
    distill_phase2,
    evaluate,
    export,
    prepare_corpus,
    promote,
    retrieve,
)
from pipelines.workers import generate, label


def two_phases(
    *,
    source: Any,
    targets: Any,
    corpus: Any,
    retrieval: Any,
    teacher: Any,
    generation: Any,
    phase1: Any,
    phase2: Any,
    evaluation: Any,
    exporting: Any,
    promotion: Any,
    champion: Any,
    start: Any,
    run_key: Any,
    work_key: Any,
) -> None:
    """The figure of the paper and what it is judged by, in the pipeline that is being defined; arguments as there."""
    # Phase 1: supervised queries, the teacher's soft labels.
    supervised = prepare_corpus(corpus=source, config=corpus).set_display_name("Prepare source")
    source_pairs = retrieve(
        collection=supervised.outputs["collection"], config=retrieval, corpus=source
    ).set_display_name("Retrieve for source")
    source_labels = label(
        "source",
        collection=supervised.outputs["collection"],
        candidates=source_pairs.outputs["candidates"],
        config=teacher,
    )
    student1 = distill_phase1(labels=source_labels.outputs["labels"], config=phase1)
    student1.set_display_name("Distil phase 1")

    # Phase 2: synthetic queries for each target corpus, the same teacher.
    with dsl.ParallelFor(targets, name="targets") as target:
        # After the source: one that is refused ends the run before a language model has worked for the targets.
        prepared = prepare_corpus(corpus=target, config=corpus).after(supervised).set_display_name("Prepare target")
        synthetic = generate(
            collection=prepared.outputs["collection"], config=generation, corpus=target, retrieval=retrieval
        )
        pairs = retrieve(
            collection=prepared.outputs["collection"],
            queries=synthetic.outputs["queries"],
            config=retrieval,
            corpus=target,
        ).set_display_name("Retrieve for target")
        labelled = label(
            "target",
            collection=prepared.outputs["collection"],
            candidates=pairs.outputs["candidates"],
            config=teacher,
        )
    student2 = distill_phase2(
        labels=dsl.Collected(labelled.outputs["labels"]),
        start=student1.outputs["model"],
        source_labels=source_labels.outputs["labels"],
        config=phase2,
        champion=start,
    ).set_display_name("Distil phase 2")

    # The evidence, and the decision.
    evaluated = evaluate(
        source_collection=supervised.outputs["collection"],
        source_candidates=source_pairs.outputs["candidates"],
        target_collections=dsl.Collected(prepared.outputs["collection"]),
        target_candidates=dsl.Collected(pairs.outputs["candidates"]),
        source_labels=source_labels.outputs["labels"],
        target_labels=dsl.Collected(labelled.outputs["labels"]),
        phase1=student1.outputs["model"],
        phase2=student2.outputs["model"],
        config=evaluation,
        teacher=teacher,
        champion=champion,
    ).set_display_name("Evaluate")
    # Beside the evaluation: on a node without a GPU, as what it makes is for.
    exported = export(
        student=student2.outputs["model"],
        source_collection=supervised.outputs["collection"],
        source_candidates=source_pairs.outputs["candidates"],
        target_collections=dsl.Collected(prepared.outputs["collection"]),
        target_candidates=dsl.Collected(pairs.outputs["candidates"]),
        config=exporting,
        evaluation=evaluation,
    ).set_display_name("Export")
    promote(
        student=student2.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        exported=exported.outputs["exported"],
        config=promotion,
        champion=champion,
        run_key=run_key,
        targets=targets,
        work_key=work_key,
    ).set_display_name("Promote")
