"""DICE: bootstrapping language models with DPO implicit rewards.

Imports run downwards only, and never in a circle (tests/test_structure.py holds it):

__main__ > tools > stages > rewards > inference > models, data > run, pairing > launch > recipe > errors

The loop is everything from `stages` down; `tools` are beside it, and it needs none of them.
"""

__version__ = "0.1.0"
