"""DICE: bootstrapping language models with DPO implicit rewards.

Modules import only what comes later in this order (a test holds it):

__main__ > agreement, report, ablation > score_file, share > doctor > plan > start > checks > data_checks >
status > benchmarks > generate, score, pair, train, evaluate > train_rm, answers, publish > card > rewards,
stage, trainer > engines > scalar_model > logprobs > probe > forward > attention, models > families, packs,
chat, sources, export, worker, choice > launch, replay, upstream, rows, table, health, checkpoints > nodes,
aside > peers, manifests, shaping, registry, hub > reference, resume, seeds, console, judge_client, digests,
trust > store > lock > recipe_io > rules > recipe > schema > disk > errors > redact
"""

__version__ = "0.1.0"
