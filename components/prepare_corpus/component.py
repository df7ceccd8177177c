from kfp.dsl import Dataset, Metrics, Output

from components.decorator import component


@component
def prepare_corpus(corpus: dict, config: dict, collection: Output[Dataset], metrics: Output[Metrics]):
    """Read, check and normalise one collection.

    Args:
        corpus: CorpusConfig: name, uri, splits, published labels.
        config: PrepareConfig: what to do with bad rows, limits.
        collection: corpus, queries and qrels tables with a content fingerprint.
        metrics: counts.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.prepare_corpus import prepare_corpus

    run_stage(
        prepare_corpus,
        configs={"corpus": corpus, "config": config},
        outputs={"collection": collection},
        metrics=metrics,
    )
