"""MLflow runs: the connection, the runs of a pipeline and its stages, and what is recorded there."""
