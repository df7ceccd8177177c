"""What is trained: a model of any kind that is read as a reranker, with what its kind asks of training and saving."""
