"""How to train."""

from dataclasses import dataclass

from ..task import PICTURES


@dataclass(frozen=True)
class Options:
    """How to train.

    Attributes:
        alone: steps in which the image tower learns alone.
        together: steps after these, in which both towers learn.
        batch: pictures in each step, of all processes together.
        pictures: to draw. They are used again, each time with other captions.
        rate: the highest learning rate.
        processes: that draw, and that train together, a thread each: layers this small gain nothing from threads.
        seed: of everything.
        asked: pictures in each part of the task at the end.
    """

    alone: int = 2400
    together: int = 2000
    batch: int = 128
    pictures: int = 40960
    rate: float = 4e-3
    processes: int = 2
    seed: int = 0
    asked: int = PICTURES
