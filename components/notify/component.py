from kfp.dsl import PipelineTaskFinalStatus

from components.decorator import component


@component
def notify(status: PipelineTaskFinalStatus, run_id: str, run_name: str):
    """Say how the run ended, to a webhook if there is one, whatever happened to it.

    Args:
        status: what KFP says of the tasks; the run's real state is read from KFP's API.
        run_id: id of the run.
        run_name: name of the run.
    """
    from inranker_flow.execution.run_stage import run_stage
    from inranker_flow.stages.notify import notify

    run_stage(
        notify,
        configs={},
        tracked=False,
        state=status.state,
        error=status.error_message,
        run_id=run_id,
        run_name=run_name,
    )
