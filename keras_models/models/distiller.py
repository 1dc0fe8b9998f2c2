"""Multi-modal reinforced training: a model that learns from pairs and from teachers at once."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .. import kernels
from ..registry import VARIANTS
from ..training.distillation import TeacherFeatures, distillation_loss
from ..training.losses import contrastive_loss
from ..types import Tensor
from .in_chunks import FitsInChunks, run_tower
from .model import MobileClipModel
from .pair_weights import WeighsPairs

TEACHER_SCALE = 100.0
"""What the similarities of the teachers of DataCompDR are multiplied with."""

TEXTS = ("text", "syn_text")
"""The inputs that are captions, real ones and synthetic ones."""


class Distiller(FitsInChunks, WeighsPairs, keras.Model):
    """Trains a student by MobileCLIP's own recipe: (1 - weight) * contrastive loss + weight * distillation loss.

    Source: MobileCLIP (arXiv 2311.17049), section 3. `fit` trains the student; save that, not this. The teachers are
    models here, or features that were computed before, such as DataCompDR's.

    Args:
        student: a MobileClipModel with both towers.
        teachers: MobileClipModels with both towers, of any variant and form. They are frozen, and run as in inference.
            Images are given as the student takes them; a teacher gets them in its own size and normalisation.
        weight: of the distillation loss, from 0 to 1. Apple used 1 for DataCompDR-12M and
            for the S variants, 0.75 for ViT-B/16 on DataCompDR-1B.
        embedding_scales: for teachers whose features are given, what the similarities of each are multiplied with. As
            many as there are teachers in "teacher_image", whose features lie side by side and are of one length.

    Inputs: a dict with
        "image" (float, (batch, height, width, 3)) and "text" (integers, (batch, length)), as the student takes them;
        "syn_text" (integers, (batch, length)), synthetic captions of the same images, or nothing: the losses of the
            images with these are added;
        "teacher_image", "teacher_text" and, with "syn_text", "teacher_syn_text" (float, (batch, sum of the teachers'
            embed_dim)), where features were computed before; without them, `teachers` compute them.
    Outputs: a dict with the student's "image_features", "text_features", "syn_text_features" (float, (batch,
    embed_dim), of length 1) and "logit_scale", and the teachers' features by number, such as "teacher_0_text".

    Raises:
        ValueError: for a weight outside [0, 1], a model of one tower, the student among the teachers, or inputs without
            any teacher.
    """

    def __init__(
        self,
        student: MobileClipModel,
        teachers: Sequence[MobileClipModel] = (),
        *,
        weight: float = 0.75,
        embedding_scales: Sequence[float] = (TEACHER_SCALE, TEACHER_SCALE),
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=student.dtype_policy, **kwargs)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight is the share of the distillation loss, from 0 to 1; got {weight!r}.")
        if any(None in (model.image_encoder, model.text_encoder) for model in (student, *teachers)):
            raise ValueError("The student and its teachers need both towers.")
        if any(teacher is student for teacher in teachers):
            raise ValueError("The student cannot be its own teacher. Give a copy: load it twice.")
        self.student = student
        self.teachers = list(teachers)
        self.weight = weight
        self.embedding_scales = list(embedding_scales)
        for teacher in self.teachers:
            teacher.freeze()
        self.built = True

    def call(self, inputs: dict[str, Tensor], training: bool | None = None) -> dict[str, Tensor]:
        size = self.chunk_size_for(training)
        student, texts = self.student, [key for key in TEXTS if key in inputs]
        outputs = {"logit_scale": student.scale()}
        for key in ("image", *texts):
            tower = student.image_encoder if key == "image" else student.text_encoder
            outputs[f"{key}_features"] = kernels.unit_length(run_tower(tower, inputs[key], training, size))
            for index, features in enumerate(self._teachers_features(inputs, key, size)):
                outputs[f"teacher_{index}_{key}"] = features
        if "teacher_0_image" not in outputs:
            raise ValueError('There is no teacher: neither "teacher_image" in the inputs nor a model.')
        return outputs

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The weighted sum of both losses, over the captions and over the synthetic ones, and the towers' own losses.

        `sample_weight` weighs pairs.
        """
        scales = self.embedding_scales if "teacher_image" in x else [teacher.scale() for teacher in self.teachers]
        loss: Any = 0.0
        for key in TEXTS:
            if f"{key}_features" in y_pred:
                pairs = y_pred["image_features"], y_pred[f"{key}_features"], y_pred["logit_scale"]
                teachers = [
                    TeacherFeatures(y_pred[f"teacher_{index}_image"], y_pred[f"teacher_{index}_{key}"], scale)
                    for index, scale in enumerate(scales)
                ]
                contrastive = contrastive_loss(*pairs, sample_weight)
                distilled = distillation_loss(*pairs, teachers, sample_weight)
                loss = loss + (1 - self.weight) * contrastive + self.weight * distilled
        return sum((ops.cast(ops.sum(own), loss.dtype) for own in self.losses), loss)

    def _teachers_features(self, inputs: dict[str, Tensor], key: str, size: int | None) -> list[Tensor]:
        """What each teacher makes of the images or of one kind of captions."""
        if "teacher_image" in inputs:
            return self._split(inputs[f"teacher_{key}"])
        made = []
        for teacher in self.teachers:
            images = key == "image"
            tower = teacher.image_encoder if images else teacher.text_encoder
            rows = as_teacher_takes(inputs[key], self.student, teacher) if images else inputs[key]
            made.append(kernels.unit_length(run_tower(tower, rows, False, size)))
        return made

    def _split(self, features: Tensor) -> list[Tensor]:
        count, width = len(self.embedding_scales), features.shape[-1]
        if width % count:
            raise ValueError(f"The teachers' features are {width} numbers, which {count} teachers cannot share alike.")
        return [features[:, start : start + width // count] for start in range(0, width, width // count)]


def as_teacher_takes(images: Tensor, student: MobileClipModel, teacher: MobileClipModel) -> Tensor:
    """A student's images, resized and normalised as a teacher's.

    A model of no variant takes images as the other one does.
    """
    mine, other = (VARIANTS.get(model.variant or "") for model in (student, teacher))
    if mine is not None and other is not None and (mine.mean, mine.std) != (other.mean, other.std):
        factors = [own / its for own, its in zip(mine.std, other.std, strict=True)]
        shifts = [(own - its) / std for own, its, std in zip(mine.mean, other.mean, other.std, strict=True)]
        images = images * ops.cast(factors, images.dtype) + ops.cast(shifts, images.dtype)
    size = teacher.image_encoder.image_size
    if tuple(images.shape[1:3]) != (size, size):
        images = ops.image.resize(images, (size, size), "bilinear", antialias=True, data_format="channels_last")
    return images
