from typing import Dict, List, NamedTuple

from kfp.dsl import Markdown, Output

from components.decorator import component


@component
def preflight(
    pipeline: str,
    values: dict,
    source: str,
    targets: str,
    teacher: str,
    student: str,
    generator: str,
    settings: str,
    need: dict,
    run_key: str,
    work_key: str,
    report: Output[Markdown],
) -> NamedTuple(
    "Found",
    Output=str,
    source=dict,
    targets=List[Dict[str, str]],
    corpora=dict,
    corpus=dict,
    retrieval=dict,
    teacher=dict,
    generation=dict,
    phase1=dict,
    phase2=dict,
    evaluation=dict,
    export=dict,
    promotion=dict,
    champion=str,
    start=str,
    run_key=str,
    work_key=str,
):
    """Resolve what the run was started with, check what it needs from outside, and find the champion to be measured against.

    Args:
        pipeline: its name.
        values: the profile's sections.
        source: SOURCE, typed into the form, as the next five; or empty. As output: CorpusConfig.
        targets: TARGETS, separated by commas. As output: list of CorpusConfig.
        teacher: TEACHER. As output: TeacherConfig.
        student: STUDENT.
        generator: GENERATOR.
        settings: SET.
        need: what the largest GPU task asks for: stage, cpu, memory, GPUs, pool, tolerations, queue.
        run_key: identity of this work, so that nothing is compared with itself; empty where it is to be computed.
        work_key: identity of its configuration; the same.
        report: the checks.
        Output: yes (by this name, because KFP's local runner finds no other in a condition).
        corpora: CorporaConfig.
        corpus: PrepareConfig.
        retrieval: RetrieveConfig.
        generation: GenerateConfig.
        phase1: DistillConfig.
        phase2: DistillConfig.
        evaluation: EvaluateConfig.
        export: ExportConfig.
        promotion: PromoteConfig.
        champion: model reference of the champion that serves now, or empty.
        start: the same where phase 2 goes on from it, else empty.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.preflight import preflight

    return run_stage(
        preflight,
        configs={},
        outputs={"report": report},
        tracked=False,
        pipeline=pipeline,
        values=values,
        source=source,
        targets=targets,
        teacher=teacher,
        student=student,
        generator=generator,
        settings=settings,
        need=need,
        run_key=run_key,
        work_key=work_key,
    ).found
