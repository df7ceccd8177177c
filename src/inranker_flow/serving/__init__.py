"""A reranker behind HTTP: requests of many clients, one model after another, and the registry that says which."""
