"""Training in less memory: towers whose blocks are computed again for the gradient."""

from typing import Any

from ..layers.remat import Rematerializes


class RematerializesTowers(Rematerializes):
    """Mixed into a model of two towers."""

    @property
    def remat(self) -> bool:
        """Whether training keeps only the inputs of each block of both towers, and computes it again for the gradient.

        The step is the same. It takes less memory, and the time of a forward pass more. Only calls with `training=True`
        are concerned, so neither `predict` nor `encode_*`. To be set before `fit`. It is saved with the model.
        """
        towers = self._towers()
        return all(tower.remat for tower in towers)

    @remat.setter
    def remat(self, asked: bool) -> None:
        for tower in self._towers():
            tower.remat = bool(asked)
        self.train_function = None  # which Keras compiled for what it was

    def _towers(self) -> list[Any]:
        model: Any = self
        return [tower for tower in (model.image_encoder, model.text_encoder) if tower is not None]
