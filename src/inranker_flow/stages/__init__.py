"""The tasks of the pipeline: one file for each, by its name. A stage is a plain function: configuration and paths in, files and a
small record of numbers out."""
