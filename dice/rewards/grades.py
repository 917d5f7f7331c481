"""Grades from 0 to 5: read from what a judge says, and kept while a shard is still being judged."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from dice.errors import BadInput
from dice.launch import disk_errors
from dice.run import files
from dice.run.rows import Graded, from_line, to_line

HIGHEST = 5
# What a judge says is read in a time that grows with its length alone: nothing that is looked for again from
# every "grade" of a text may be longer than a line has room for.
AROUND = r"[\s*_`\"'\[($]{0,40}"  # markup, quotes and brackets that may stand around a number
MARKS = r"[ \t*_`\"']{0,40}"
# "Grade:", "**Grade** (0-5) =", '"grade": ': the first of a line that has a number, or what looks like one.
NOTE = r"(?:[(\[][^\d\n)\]]{0,40}(?:0[^\d\n)\]]{0,40})?5[)\]])?"
LABEL = re.compile(
    rf"^.*?\bgrade{MARKS}{NOTE}{MARKS}[:=]{AROUND}(?=\W{{0,3}}\d)", re.IGNORECASE | re.MULTILINE
)
# A number, of 5 if of anything: no percentage, no range, no part of a longer number or word.
NUMBER = re.compile(
    r"(\d+(?:\.\d+)?)(?:[ \t]*(?:/|(?:out[ \t]+)?of\b)[ \t]*5)?"
    r"(?![.,]?\d|[^\W_]|[ \t*_]*(?:[/%+]|percent|(?:out[ \t]+)?of\b|(?:[-–—~]+|to|or)[ \t]*\d))",
    re.IGNORECASE,
)
BARE = re.compile(rf"{AROUND}(?:{NUMBER.pattern})[\s*_`\"'\])$.!]*", re.IGNORECASE)


def grade_of(answer: str) -> float | None:
    """The grade that an answer ends with, or that it consists of; None where there is none from 0 to 5.

    The last line with a grade counts, and the first in it. Thoughts (<think>) are no part of the answer.
    """
    answer = answer.rpartition("</think>")[2].partition("<think>")[0]
    labels = [*LABEL.finditer(answer)]
    found = NUMBER.match(answer, labels[-1].end()) if labels else BARE.fullmatch(answer)
    grade = float(found[1]) if found else None
    return grade if grade is not None and grade <= HIGHEST else None


class Kept:
    """The grades of a shard that is being judged: written down one by one, so that an end loses none.

    They belong to the stage that is at work in the folder, which begins with an empty folder for another
    judge, other responses or settings. A row whose answers did not all come is not kept: it is asked again.
    """

    def __init__(self, path: Path, asked: int) -> None:
        """`asked`: answers that a whole row has."""
        self.path, self.asked = path, asked
        self.found = {(row.prompt_id, row.sample): row for row in _read(path)}

    def __enter__(self) -> Self:
        files.write_rows(self.path, self.found.values())  # without half a last line
        self.file = self.path.open("ab")
        return self

    def add(self, row: Graded) -> None:
        """One more row of the shard."""
        self.found[row.prompt_id, row.sample] = row
        if len(row.grades) == self.asked:
            with disk_errors.naming(self.path):
                self.file.write(to_line(row))
                self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _read(path: Path) -> Iterator[Graded]:
    """The rows of a file as far as they are whole: a writer may have been killed within one."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            try:
                yield from_line(Graded, line, str(path))
            except BadInput:
                return
