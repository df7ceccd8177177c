"""Does phase 2 on synthetic queries help on real text? Real encoders, real collections, two cores, hours.

    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text weights --root FOLDER
    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text collections --root FOLDER --data ../shared/data
    PYTHONPATH=src:. nice -n 15 .venv/bin/python -m benchmarks.real_text queries --root FOLDER

Everything lies below FOLDER; each command goes on where a killed one was, and what is complete is kept.

- `weights` (`weights.py`): all-MiniLM-L6-v2, from which the students start, and SmolLM2-135M-Instruct, which writes queries.
- `collections` (`domains.py`): the source, SQuAD; and targets of other domains. No target has a training query or a training
  judgement, so nothing can be trained on what is tested.
- `queries` (`queries.py`): for each target, queries that SmolLM2 writes and sentences cropped from the documents, both by
  the stage `generate_queries`, each task in a process of its own.

What is still to be written: the students. The plan, so that it can go on from these folders by the same tasks
(`inranker_flow.workflow.tasks.Run`: retrieve, teacher_label, distill_phase1, distill_phase2, evaluate):

- Teacher: a cross-encoder trained on the source's judgements from the same encoder, or whatever is at hand; it is one of
  the systems that are measured.
- Systems: first stage (BM25); phase 1; phase 1 continued on more source with the compute of phase 2 (else a gain of phase 2
  may be one of more steps); phase 2 on written queries; phase 2 on crops; teacher.
- One thing at a time from phase 2 on written queries: the loss (mse, margin_mse, kl, ranknet); the number of queries (250,
  500, 1,000, all); replay of the source or none; one student for all targets, one for each, and their weights merged.
- Three seeds of training for each. Measure: nDCG@10 with 95% bootstrap intervals over queries; paired tests against phase 1
  (a query's mean over seeds), corrected by Holm over targets and variants. The source's own test says what is forgotten.
"""
