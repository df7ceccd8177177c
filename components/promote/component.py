from kfp.dsl import HTML, Dataset, Input, Metrics, Model, Output

from components.decorator import component


@component
def promote(
    student: Input[Model],
    evaluation: Input[Dataset],
    exported: Input[Dataset],
    config: dict,
    champion: str,
    run_key: str,
    targets: list,
    work_key: str,
    decision: Output[Dataset],
    report: Output[HTML],
    metrics: Output[Metrics],
):
    """Register the student, and make it champion if the gate says so.

    Args:
        student: the phase-2 student.
        evaluation: what `evaluate` measured.
        exported: the student's variants, and what `export` measured.
        config: PromoteConfig: the gate's policy and the registered model's name.
        champion: model reference of the champion that was evaluated, or empty.
        run_key: identity of this work, kept with the version.
        targets: list of CorpusConfig that the student was adapted to, kept with the version.
        work_key: identity of the configuration, kept with the version.
        decision: verdict, reasons, version.
        report: self-contained page: the verdict, and the evidence below.
        metrics: 1 for promoted, else 0.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.promote import promote

    run_stage(
        promote,
        configs={"config": config, "targets": targets},
        inputs={"student": student, "evaluation": evaluation, "exported": exported},
        outputs={"decision": decision, "report": report},
        metrics=metrics,
        champion=champion,
        run_key=run_key,
        work_key=work_key,
    )
