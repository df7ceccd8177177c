from kfp.dsl import Dataset, Input, Metrics, Output

from components.decorator import component


@component
def generate_queries(collection: Input[Dataset], config: dict, queries: Output[Dataset], metrics: Output[Metrics]):
    """Synthetic queries for a target corpus, written by a language model.

    Args:
        collection: what `prepare_corpus` wrote.
        config: GenerateConfig: generator, prompt, how many, sampling.
        queries: synthetic queries, each with the passage that it was written for.
        metrics: generated, dropped and kept.
    """
    from inranker_flow.generation import generate_queries
    from inranker_flow.stage import run_stage

    run_stage(
        generate_queries,
        configs={"config": config},
        inputs={"collection": collection},
        outputs={"queries": queries},
        metrics=metrics,
    )
