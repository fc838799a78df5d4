"""Alignment with preferences: what is learned from answers that were compared or judged.

batch.py       pairs and judgements as packed tensors, a pair never torn apart
scoring.py     log-probabilities of answers; means over a global batch; what is measured
reference.py   the model that the policy is compared with, in four ways
storing.py     what the reference says, computed once and kept beside the run
source.py      an endless stream of batches with a cursor
dpo.py kto.py orpo.py contrast.py reward.py   a file for each family of losses
"""
