"""The pipeline: InRanker's two phases (arXiv 2401.06910), from corpora to a promoted student."""

from typing import Dict, List

from kfp import dsl

from components import (
    distill_phase1,
    distill_phase2,
    evaluate,
    generate_queries,
    notify,
    preflight,
    prepare_corpus,
    promote,
    retrieve,
    teacher_label,
)
from pipelines.placement import largest_gpu_task, place_all


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
    gpu_type: str,
    gpus: int,
    gpu_pool: dict,
    gpu_tolerations: list,
    run_key: str,
):
    """Most parameters are one section of a profile, resolved and validated before submission.

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
        gpu_type: resource name of the accelerator, nvidia.com/gpu.
        gpus: accelerators of one GPU task.
        gpu_pool: labels of the nodes that GPU tasks run on.
        gpu_tolerations: the taints of those nodes that GPU tasks tolerate.
        run_key: identity of this work.
    """
    told = notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    with dsl.ExitHandler(told, name="run"):
        # Before anything is paid for: is everything there that the stages will need?
        ready = preflight(
            source=source,
            targets=targets,
            teacher=teacher,
            generation=generation,
            student=phase1,
            promotion=promotion,
            gpu_type=gpu_type,
            gpus=gpus,
            gpu_pool=gpu_pool,
            gpu_tolerations=gpu_tolerations,
            room=largest_gpu_task(),
            run_key=run_key,
        )

        # Phase 1: supervised queries, the teacher's soft labels.
        supervised = prepare_corpus(corpus=source, config=corpus).after(ready).set_display_name("Prepare source")
        source_pairs = retrieve(collection=supervised.outputs["collection"], config=retrieval)
        source_labels = teacher_label(
            collection=supervised.outputs["collection"],
            candidates=source_pairs.outputs["candidates"],
            config=teacher,
        ).set_display_name("Label source")
        student1 = distill_phase1(labels=source_labels.outputs["labels"], config=phase1)

        # Phase 2: synthetic queries for each target corpus, the same teacher.
        with dsl.ParallelFor(targets, name="targets") as target:
            # After the source: one that is refused ends the run before a language model has worked for the targets.
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
            source_labels=source_labels.outputs["labels"],
            target_labels=dsl.Collected(labelled.outputs["labels"]),
            target_queries=dsl.Collected(synthetic.outputs["queries"]),
            phase1=student1.outputs["model"],
            phase2=student2.outputs["model"],
            config=evaluation,
            teacher=teacher,
            champion=ready.outputs["Output"],
        )
        promote(
            student=student2.outputs["model"],
            evaluation=evaluated.outputs["evaluation"],
            config=promotion,
            champion=ready.outputs["Output"],
            run_key=run_key,
        )

    place_all(gpu_type=gpu_type, gpus=gpus, gpu_pool=gpu_pool, gpu_tolerations=gpu_tolerations)
