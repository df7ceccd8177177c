"""The pipeline without KFP: the order of the stages in plain Python, each stage in a process of its own."""
