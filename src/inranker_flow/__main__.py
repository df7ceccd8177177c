"""`python -m inranker_flow` is the command `inranker`."""

from inranker_flow.cli import entry

if __name__ == "__main__":
    entry()
