"""The pipeline: InRanker's two phases (arXiv 2401.06910), from corpora to a promoted student."""

from typing import Dict, List, NamedTuple

from kfp import dsl

from components import (
    distill_phase1,
    distill_phase2,
    evaluate,
    generate_queries,
    prepare_corpus,
    promote,
    retrieve,
    teacher_label,
)


class Results(NamedTuple):
    """What a run leaves: the measures, the page to read, the verdict."""

    evaluation: dsl.Dataset
    report: dsl.HTML
    decision: dsl.Dataset


@dsl.pipeline(
    name="inranker",
    display_name="InRanker",
    description="Distil a large reranker into a small one, for your corpora, with no new human labels.",
)
def inranker(
    source: Dict[str, str],
    targets: List[Dict[str, str]],
    corpus: dict,
    retrieval: dict,
    teacher: dict,
    generation: dict,
    phase1: dict,
    phase2: dict,
    evaluation: dict,
    promotion: dict,
    champion: str,
    run_key: str,
) -> Results:
    """Each parameter is one section of a profile, resolved and validated before submission.

    Args:
        source: the collection with supervised queries (CorpusConfig).
        targets: the collections to adapt to (list of CorpusConfig).
        corpus: how collections are read (PrepareConfig).
        retrieval: BM25 and negatives (RetrieveConfig).
        teacher: the large reranker (TeacherConfig).
        generation: synthetic queries (GenerateConfig).
        phase1: distillation on the source (DistillConfig).
        phase2: distillation on the targets (DistillConfig).
        evaluation: measures and depth (EvaluateConfig).
        promotion: the gate's policy (PromoteConfig).
        champion: the model that serves now (models:/NAME/VERSION), or empty.
        run_key: identity of this work.
    """
    # Phase 1: supervised queries, the teacher's soft labels.
    supervised = prepare_corpus(corpus=source, config=corpus).set_display_name("Prepare source")
    source_pairs = retrieve(collection=supervised.outputs["collection"], config=retrieval)
    source_labels = teacher_label(
        collection=supervised.outputs["collection"], candidates=source_pairs.outputs["candidates"], config=teacher
    ).set_display_name("Label source")
    student1 = distill_phase1(labels=source_labels.outputs["labels"], config=phase1)

    # Phase 2: synthetic queries for each target corpus, the same teacher.
    with dsl.ParallelFor(targets, name="targets") as target:
        # After the source: a source that is refused ends the run before a language model has worked for the targets.
        prepared = prepare_corpus(corpus=target, config=corpus).after(supervised).set_display_name("Prepare target")
        synthetic = generate_queries(collection=prepared.outputs["collection"], config=generation)
        pairs = retrieve(
            collection=prepared.outputs["collection"], queries=synthetic.outputs["queries"], config=retrieval
        )
        labelled = teacher_label(
            collection=prepared.outputs["collection"], candidates=pairs.outputs["candidates"], config=teacher
        ).set_display_name("Label target")
    student2 = distill_phase2(
        labels=dsl.Collected(labelled.outputs["labels"]), start=student1.outputs["model"], config=phase2
    )

    # The evidence, and the decision.
    evaluated = evaluate(
        source_collection=supervised.outputs["collection"],
        source_candidates=source_pairs.outputs["candidates"],
        target_collections=dsl.Collected(prepared.outputs["collection"]),
        target_candidates=dsl.Collected(pairs.outputs["candidates"]),
        phase1=student1.outputs["model"],
        phase2=student2.outputs["model"],
        config=evaluation,
        teacher=teacher,
        champion=champion,
    )
    promoted = promote(
        student=student2.outputs["model"],
        evaluation=evaluated.outputs["evaluation"],
        config=promotion,
        champion=champion,
        run_key=run_key,
    )
    return Results(
        evaluation=evaluated.outputs["evaluation"],
        report=evaluated.outputs["report"],
        decision=promoted.outputs["decision"],
    )
