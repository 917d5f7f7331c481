"""A judge for tests: the share of its letters that an answer does not repeat."""


def quality(prompt: str, response: str) -> float:
    return len(set(response)) / max(1, len(response))
