from kfp.dsl import Dataset, Input, Markdown, Metrics, Output

from components.decorator import component


@component
def generate_queries(
    collection: Input[Dataset],
    config: dict,
    corpus: dict,
    retrieval: dict,
    queries: Output[Dataset],
    report: Output[Markdown],
    metrics: Output[Metrics],
):
    """Synthetic queries for a target corpus, written by a language model.

    Args:
        collection: what `prepare_corpus` wrote.
        config: GenerateConfig: generator, prompt, how many, sampling.
        corpus: CorpusConfig: its language, and its prompt and number of documents, where it has its own.
        retrieval: RetrieveConfig: how queries must find their document, where that is asked for.
        queries: synthetic queries, each with the passage that it was written for.
        report: what was generated, dropped and kept, with samples to read.
        metrics: generated, dropped and kept.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.generate_queries import generate_queries

    run_stage(
        generate_queries,
        configs={"config": config, "corpus": corpus, "retrieval": retrieval},
        inputs={"collection": collection},
        outputs={"queries": queries, "report": report},
        metrics=metrics,
    )
