"""The two ways to fail: the input is wrong (status 2), or a stage broke (status 1)."""

from dice.redact import redacted


def printable(text: str) -> str:
    """A text in which nothing moves a terminal's cursor, colours it or hides: as escapes, \\x1b or \\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class BadInput(Exception):
    """Something a user gave can't be used. The message is one line: file, line, key, what would be right.

    Of a very long one, a name that is a whole file say, the middle is left out.
    """

    status = 2
    longest = 2000  # characters

    def __init__(self, message: str) -> None:
        text, half = printable(redacted(message)), self.longest // 2 - 2
        super().__init__(text if len(text) <= self.longest else f"{text[:half]} … {text[-half:]}")


class StageFailed(Exception):
    """A stage's worker failed. The message ends with the end of its log and the log's path."""

    status = 1
