"""Rerankers behind one interface: (query, passage) pairs in, the logits of "false" and "true" out."""
