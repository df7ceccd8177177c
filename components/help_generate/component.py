from kfp.dsl import Dataset, Input, Metrics, Output

from components.decorator import component


@component
def help_generate(collection: Input[Dataset], config: dict, corpus: dict, worker: int, metrics: Output[Metrics]):
    """Some of the work of `generate_queries`, in a pod beside it (`cluster.workers`).

    Args:
        collection: as `generate_queries` is given it, and so the next two.
        config: GenerateConfig: generator, prompt, how many, sampling.
        corpus: CorpusConfig: its prompt and number of documents, where it has its own.
        worker: number of this pod, from 1; which share it begins with.
        metrics: counts and speed.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.generate_queries import help_generate

    run_stage(
        help_generate,
        configs={"config": config, "corpus": corpus},
        inputs={"collection": collection},
        metrics=metrics,
        worker=worker,
    )
