"""What a model offers to those who fine-tune it: freezing and LoRA."""

from pathlib import Path

from ..training.freezing import set_trainable
from ..training.lora import enable_lora, load_adapters, merge_adapters, save_adapters


class Tunable:
    """Mixed into MobileClipModel. Each of these is called before `compile`."""

    def freeze(self, *, image: bool = False, text: bool = False, norms: bool = False) -> None:
        """Freezes parts of the model; without any named, all of it, the logit scale too.

        What is frozen stays so in whatever is made of the model: `save`, `save_pretrained`, copies, `reparameterize`.

        Args:
            image: the image tower.
            text: the text tower.
            norms: the batch norms and layer norms of both towers. A frozen batch norm neither learns nor moves its
                statistics, and normalises by them, as in inference.

        Raises:
            ValueError: for a tower that the model does not have.
        """
        set_trainable(self, False, image, text, norms)

    def unfreeze(self, *, image: bool = False, text: bool = False, norms: bool = False) -> None:
        """Undoes `freeze`, for the same parts; without any named, for all. A tower's norms are parts of it."""
        set_trainable(self, True, image, text, norms)

    def enable_lora(self, rank: int, alpha: float | None = None) -> None:
        """Trains low-rank adapters in place of the weights: LoRA (arXiv 2106.09685).

        The model is frozen. Each dense layer of attention and of feed-forward, in both towers, gets two small matrices,
        whose product is added to its own, times alpha / rank. At first the product is zero.

        Args:
            rank: columns of the first, rows of the second matrix: 4 to 64 as a rule.
            alpha: None for `rank`, so that the product is added as it is.

        Raises:
            LoraError: for another form than train, int8 weights, adapters that are there already, no such layers, or a
                rank below 1 or above the shorter side of the smallest matrix.
        """
        enable_lora(self, rank, alpha)

    def save_lora_weights(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Saves the adapters alone, some hundredth of the model.

        Args:
            path: a .safetensors file to write. It appears whole or not at all.
            overwrite: whether to replace a file that is there.

        Raises:
            LoraError: for a model without adapters, or another ending.
            OutputError: where the file cannot be written, or is there.
        """
        save_adapters(self, Path(path), overwrite)

    def load_lora_weights(self, path: str | Path) -> None:
        """Loads what `save_lora_weights` wrote. A model without adapters gets them, as from `enable_lora`.

        Raises:
            LoraError: where the file is missing, damaged, no such file or for another model. The model is then as it
                was before.
        """
        load_adapters(self, Path(path))

    def merge_lora(self) -> None:
        """Adds the adapters to the weights, in float64, and removes them. All of the model is then trained again.

        The model then folds, saves and converts back like any other.

        Raises:
            LoraError: for a model without adapters.
        """
        merge_adapters(self)
