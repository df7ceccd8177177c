"""First stage: what is retrieved is all that a reranker can put in order."""
