from typing import NamedTuple

from kfp.dsl import Markdown, Output

from components.decorator import component


@component
def preflight(
    source: dict,
    targets: list,
    teacher: dict,
    generation: dict,
    student: dict,
    phase2: dict,
    promotion: dict,
    need: dict,
    run_key: str,
    report: Output[Markdown],
) -> NamedTuple("Found", champion=str, start=str):
    """Check everything that the run needs from outside, and find the champion to be measured against.

    Args:
        source: CorpusConfig of the source.
        targets: list of CorpusConfig.
        teacher: TeacherConfig.
        generation: GenerateConfig.
        student: DistillConfig of phase 1, whose checkpoint the student starts from.
        phase2: DistillConfig of phase 2: what it starts from.
        promotion: PromoteConfig: the registered model's name.
        need: what the largest GPU task asks for: stage, cpu, memory, GPUs, pool, tolerations, queue.
        run_key: identity of this work, so that nothing is compared with itself.
        report: a table of the checks.
        champion: model reference of the champion that serves now, or empty.
        start: the same where phase 2 goes on from it, else empty.
    """
    from inranker_flow.preflight import preflight
    from inranker_flow.stage import run_stage

    return run_stage(
        preflight,
        configs={
            "source": source,
            "targets": targets,
            "teacher": teacher,
            "generation": generation,
            "student": student,
            "phase2": phase2,
            "promotion": promotion,
        },
        outputs={"report": report},
        tracked=False,
        need=need,
        run_key=run_key,
    ).found
