from kfp.dsl import Dataset, Input, Metrics, Output

from components.decorator import component


@component
def retrieve(
    collection: Input[Dataset],
    config: dict,
    corpus: dict,
    candidates: Output[Dataset],
    metrics: Output[Metrics],
    queries: Input[Dataset] = None,
):
    """First stage: candidates for the test queries, training pairs for the training queries.

    Args:
        collection: what `prepare_corpus` wrote.
        config: RetrieveConfig: which first stage and its parameters, depth, negatives.
        corpus: CorpusConfig: its language, and which training set an earlier run made of it.
        candidates: pairs to label, and the run (also as TREC file) that every system reranks.
        metrics: counts and speed.
        queries: training queries; without them the collection's supervised queries.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.retrieve import retrieve

    run_stage(
        retrieve,
        configs={"config": config},
        inputs={"collection": collection, "queries": queries},
        outputs={"candidates": candidates},
        metrics=metrics,
        earlier=corpus.get("earlier", ""),
        language=corpus.get("language", ""),
    )
