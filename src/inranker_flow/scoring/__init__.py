"""Logits of many pairs: planned, scored here or in several processes, kept shard by shard."""
