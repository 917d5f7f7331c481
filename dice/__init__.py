"""DICE: bootstrapping language models with DPO implicit rewards.

Modules import only what comes later in this order (a test holds it):

__main__ > agreement, report > score_file > doctor > plan > start > checks > status > benchmarks > generate,
score, pair, train, evaluate > rewards, answers, publish > card > stage, trainer > engines > logprobs >
probe > forward > attention, models > families, packs, chat, sources, export, worker, choice > launch, replay,
upstream, rows, table, health, checkpoints > nodes > peers, manifests, shaping, registry, hub > reference,
resume, console, judge_client, digests > store > lock > recipe_io > recipe > schema > disk > errors
"""

__version__ = "0.1.0"
