"""How a benchmark ends: a line per figure, and status 1 where one falls short."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What was measured, and what is required of it, if anything: at least or at most so much."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        low, high = self.at_least, self.at_most
        return (low is None or self.value >= low) and (high is None or self.value <= high)

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "at most": self.at_most}
        required = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        return f"{self.name}: {self.value:.4g}" + (f" (required: {required})" if required else "")


def report(figures: list[Figure]) -> int:
    """Print the figures; 1 where one falls short, else 0."""
    for figure in figures:
        print(f"{figure}{'' if figure.holds else '  <- falls short'}")
    return 0 if all(figure.holds for figure in figures) else 1
