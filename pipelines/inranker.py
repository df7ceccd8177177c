"""The pipeline: InRanker's two phases (arXiv 2401.06910), from corpora to a promoted student."""

from kfp import dsl

from components import notify, preflight
from pipelines.placement import largest_gpu_task, place_all
from pipelines.two_phases import two_phases


def inranker(
    source: str = "",
    targets: str = "",
    teacher: str = "",
    student: str = "",
    generator: str = "",
    settings: str = "",
    values: dict = {},  # noqa: B006 (the default that is compiled in is a profile's)
    run_key: str = "",
    work_key: str = "",
):
    """Distil a large reranker into a small one, for your corpora, with no new human labels.

    Args:
        source: collection with supervised queries, instead of the profile's: s3://BUCKET/FOLDER, ir_datasets:ID.
        targets: collections to adapt to, separated by commas, instead of the profile's.
        teacher: checkpoint of the large reranker, instead of the profile's: hub id, s3://.
        student: checkpoint that the small reranker starts from, instead of the profile's.
        generator: checkpoint of the query generator, instead of the profile's.
        settings: any other values, as make's SET: phase1.max_steps=100 retrieval.negatives=5
        values: the profile that this file was compiled with, for what the fields above leave open.
        run_key: identity of this work; leave it empty (make submit fills it).
        work_key: identity of its configuration; leave it empty.
    """
    told = notify(run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER, run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER)
    told.set_display_name("Notify")
    with dsl.ExitHandler(told, name="run"):
        # Before anything is paid for: what is asked for, and is everything there that the stages will need?
        ready = preflight(
            pipeline="inranker",
            values=values,
            source=source,
            targets=targets,
            teacher=teacher,
            student=student,
            generator=generator,
            settings=settings,
            need=largest_gpu_task(),
            run_key=run_key,
            work_key=work_key,
        ).set_display_name("Preflight")
        asked = ready.outputs

        # A graph of its own, because KFP's local runner loops over what a graph is handed, and over no task's output in it.
        with dsl.If(asked["Output"] == "yes", name="checked"):
            two_phases(
                source=asked["source"],
                targets=asked["targets"],
                corpus=asked["corpus"],
                retrieval=asked["retrieval"],
                teacher=asked["teacher"],
                generation=asked["generation"],
                phase1=asked["phase1"],
                phase2=asked["phase2"],
                evaluation=asked["evaluation"],
                exporting=asked["export"],
                promotion=asked["promotion"],
                champion=asked["champion"],
                start=asked["start"],
                run_key=asked["run_key"],
                work_key=asked["work_key"],
            )

    place_all()
