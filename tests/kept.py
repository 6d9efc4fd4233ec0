"""A checkpoint of training in memory, which can end the training after a number of saves."""

import io

import torch


class Killed(Exception):
    """Ends a training where a kill would."""


class Kept:
    """A checkpoint in memory, through torch's own file format; dies after `dies_after` saves."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.data, self.left = None, dies_after

    def load(self):
        """What was saved last, on the CPU; None before the first save."""
        return None if self.data is None else torch.load(io.BytesIO(self.data), weights_only=True, map_location="cpu")

    def save(self, state) -> None:
        """Keep `state`, and end the training if this was the last save."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.data = buffer.getvalue()
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed
