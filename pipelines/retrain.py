"""The pipeline that a schedule runs: look for new corpora below a prefix; where there are some, InRanker's two phases."""

from typing import Dict, List

from kfp import dsl

from components import discover, notify, preflight
from pipelines.placement import largest_gpu_task, place_all
from pipelines.two_phases import two_phases


def retrain(
    source: Dict[str, str],
    targets: List[Dict[str, str]],
    corpora: dict,
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
    """Train the small reranker anew when corpora are new, changed or removed; else end at once, and say why.

    Most parameters are one section of a profile, resolved and validated before submission.

    Args:
        source: the collection with supervised queries (CorpusConfig).
        targets: collections to adapt to that are there in every run, perhaps none (list of CorpusConfig).
        corpora: where the others are looked for (CorporaConfig).
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

        found = discover(
            config=corpora,
            corpus=corpus,
            source=source,
            targets=targets,
            phase2=phase2,
            promotion=promotion,
            work_key=work_key,
            run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        ).after(ready)
        found.set_display_name("Discover corpora")

        with dsl.If(found.outputs["Output"] == "yes", name="something-new"):
            two_phases(
                source=found.outputs["source"],
                targets=found.outputs["targets"],
                corpus=corpus,
                retrieval=retrieval,
                teacher=teacher,
                generation=generation,
                phase1=phase1,
                phase2=phase2,
                evaluation=evaluation,
                promotion=promotion,
                champion=found.outputs["champion"],
                start=found.outputs["start"],
                run_key=found.outputs["run_key"],
                work_key=work_key,
            )

    place_all()
