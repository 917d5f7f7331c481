"""The two ways to fail: the input is wrong (status 2), or a stage broke (status 1)."""


class BadInput(Exception):
    """Something a user gave can't be used. The message is one line: file, line, key, what would be right."""

    status = 2


class StageFailed(Exception):
    """A stage's worker failed. The message ends with the end of its log and the log's path."""

    status = 1
