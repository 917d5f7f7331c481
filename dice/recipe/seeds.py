"""Seeds: everything random in a run follows from the recipe's seed, the round and a name."""

import hashlib


def seed_of(seed: int, t: int, name: str) -> int:
    """A seed for `name` (a prompt_id) in round t, below 2**52 so that JSON readers keep it exact."""
    digest = hashlib.sha256(f"{seed}/{t}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 12
