"""DICE: bootstrapping language models with DPO implicit rewards.

Modules import only what comes later in this order (a test holds it):

__main__ > agreement > score_file > doctor > plan > start > checks > generate, score, pair, train,
evaluate, status > rewards, answers, publish > card > stage, trainer > engines > logprobs > probe > forward >
attention, models > families, packs, chat, sources, export, worker, choice > launch, replay, upstream, rows,
table, health, checkpoints > shaping, registry, hub > reference, resume, console, manifests, trust > store >
recipe_io > recipe > schema > errors > redact
"""

__version__ = "0.1.0"
