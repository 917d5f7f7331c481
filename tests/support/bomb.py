"""A pickle that shows when it is read."""


class Bomb:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")
