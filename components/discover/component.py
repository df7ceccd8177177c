from typing import Dict, List, NamedTuple

from kfp.dsl import Markdown, Output

from components.decorator import component


@component
def discover(
    config: dict,
    corpus: dict,
    source: dict,
    targets: list,
    phase2: dict,
    promotion: dict,
    work_key: str,
    run_id: str,
    report: Output[Markdown],
) -> NamedTuple("Found", Output=str, targets=List[Dict[str, str]], source=dict, run_key=str, champion=str, start=str):
    """Find the corpora below a prefix, and say whether there is anything new to train for.

    Args:
        config: CorporaConfig: where to look, and when a corpus counts as complete.
        corpus: PrepareConfig: a corpus that it refuses is left out.
        source: CorpusConfig of the collection with supervised queries.
        targets: list of CorpusConfig that belong to every run.
        phase2: DistillConfig of phase 2: what it starts from.
        promotion: PromoteConfig: the registered model's name.
        work_key: identity of the configuration.
        run_id: id of this run, which claims the work.
        report: what was found, and why a run is due or not.
        Output: yes or no (by this name, because KFP's local runner finds no other in a condition).
        run_key: identity of the work, corpora included.
        champion: model reference of the champion to be measured against, or empty.
        start: the same where phase 2 goes on from it, else empty.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.discover import discover

    return run_stage(
        discover,
        configs={
            "config": config,
            "corpus": corpus,
            "source": source,
            "targets": targets,
            "phase2": phase2,
            "promotion": promotion,
        },
        outputs={"report": report},
        tracked=False,
        work_key=work_key,
        run_id=run_id,
    ).found
