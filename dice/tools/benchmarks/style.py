"""Length and Markdown of an answer, as Arena-Hard counts them: code fences are left out of the counts."""

import functools
import re
from typing import Any

ENCODING_MODEL = "gpt-4o"  # whose tokens `token_len` counts
FENCED = re.compile(r"```([^`]*)```")
HEADERS = {f"h{level}": re.compile(rf"^#{{{level}}}\s", re.MULTILINE) for level in range(1, 7)}
# The benchmark's own patterns have \s* in front, which crosses lines. That changes no count, but takes a time
# that grows with the square of the number of empty lines.
LISTS = {
    "ordered": re.compile(r"^[^\S\n]*\d+\.\s", re.MULTILINE),
    "unordered": re.compile(r"^[^\S\n]*[-*+]\s", re.MULTILINE),
}
BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}


def markdown_counts(text: str) -> dict[str, dict[str, int]]:
    """Headers by level, list items by kind, and bold spans by marker, outside of code fences.

    The benchmark takes out the fences' contents wherever in the answer they occur, and so does this.
    """
    outside = text
    for contents in FENCED.findall(text):
        outside = outside.replace(contents, "")
    kinds = {"header_count": HEADERS, "list_count": LISTS, "bold_count": BOLD}
    return {
        kind: {name: len(pattern.findall(outside)) for name, pattern in patterns.items()}
        for kind, patterns in kinds.items()
    }


@functools.cache
def token_counter() -> Any | None:
    """tiktoken's encoding of gpt-4o, or None where its file is neither cached nor to be had from the net.

    TIKTOKEN_CACHE_DIR is where tiktoken keeps it.
    """
    import tiktoken

    try:
        return tiktoken.encoding_for_model(ENCODING_MODEL)
    except Exception:  # whatever keeps it from its host: requests' errors, a proxy's answer, a bad hash
        return None
