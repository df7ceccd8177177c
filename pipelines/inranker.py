"""The pipeline: InRanker's two phases (arXiv 2401.06910), from corpora to a promoted student."""

from typing import Dict, List

from kfp import dsl

from components import notify, preflight
from pipelines.placement import largest_gpu_task, place_all
from pipelines.two_phases import two_phases


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
    run_key: str,
    work_key: str,
):
    """Distil a large reranker into a small one, for your corpora, with no new human labels.

    Most parameters are one section of a profile, resolved and validated before submission.

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
        run_key: identity of this work.
        work_key: identity of its configuration, whatever the targets.
    """
    told = notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    told.set_display_name("Notify")
    with dsl.ExitHandler(told, name="run"):
        # Before anything is paid for: is everything there that the stages will need?
        ready = preflight(
            source=source,
            targets=targets,
            teacher=teacher,
            generation=generation,
            student=phase1,
            phase2=phase2,
            promotion=promotion,
            need=largest_gpu_task(),
            run_key=run_key,
        ).set_display_name("Preflight")

        two_phases(
            source=source,
            targets=targets,
            corpus=corpus,
            retrieval=retrieval,
            teacher=teacher,
            generation=generation,
            phase1=phase1,
            phase2=phase2,
            evaluation=evaluation,
            promotion=promotion,
            champion=ready.outputs["champion"],
            start=ready.outputs["start"],
            run_key=run_key,
            work_key=work_key,
            after=[ready],
        )

    place_all()
