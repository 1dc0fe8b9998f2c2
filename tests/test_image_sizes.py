"""Image towers at other sizes than they were trained at."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from mobileclip_keras.converters.conversion.mapping import load_into
from mobileclip_keras.keras_models.kernels import float64_enabled
from mobileclip_keras.keras_models.models.image_encoder import MobileClipImageEncoder
from mobileclip_keras.keras_models.models.model import MobileClipModel
from mobileclip_keras.keras_models.towers.positions import resize_positions
from mobileclip_keras.verify.data import synthetic
from mobileclip_keras.verify.torch_models import build_reference
from mobileclip_keras.weight_maps.table import NONE

from .small import EMBED_DIM, SMALL_IMAGE_TOWERS, image_rows, small_model
from .support import apply, checkpoint, error, images, synthetic_model, tensors

pytestmark = pytest.mark.usefixtures("small_towers")


@pytest.mark.real
def test_mci_towers_take_other_sizes() -> None:
    """PyTorch's own result at 320 x 192, with the weights of MobileCLIP-S0."""
    state = {name: a for name, a in tensors("timm__fastvit_mci0").items()}
    batch = np.random.default_rng(0).uniform(size=(1, 320, 192, 3)).astype(np.float32)
    reference = build_reference("mci0", None, state, "timm").encode_image(batch)
    model = synthetic_model("timm__fastvit_mci0")
    assert error(apply(model.image_encoder, batch), reference) < 1e-10


@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (16, 16)), ((14, 14), (20, 7)), ((16, 16), (9, 31)), ((4, 4), (4, 4))]
)
def test_positions_are_resized_as_timm_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    import torch
    from timm.layers import resample_abs_pos_embed

    grid = np.random.default_rng(0).normal(size=(1, old[0] * old[1], 5))
    expected = resample_abs_pos_embed(torch.tensor(grid).float(), list(new), list(old), num_prefix_tokens=0)
    with float64_enabled():
        made = keras.ops.convert_to_numpy(
            resize_positions(keras.ops.convert_to_tensor(grid, dtype="float64"), old, new)
        )
    exact = torch.nn.functional.interpolate(
        torch.tensor(grid).reshape(1, *old, 5).permute(0, 3, 1, 2), size=new, mode="bicubic", antialias=True
    )
    exact = exact.permute(0, 2, 3, 1).reshape(1, -1, 5).numpy()
    assert made.dtype == np.float64
    assert error(made, exact) < 1e-12
    assert error(made, expected.numpy().astype(np.float64)) < 1e-5


@pytest.mark.parametrize("image", ["small_vit", "small_vit_clip"])
def test_a_vit_resizes_its_grid_and_not_its_class_tokens_position(image: str) -> None:
    model = small_model(image, None, "float64")
    backbone, size = model.image_encoder.backbone, 2 * SMALL_IMAGE_TOWERS[image].image_size
    prefix = int(SMALL_IMAGE_TOWERS[image].class_token_position)
    grid = (backbone.grid_size, backbone.grid_size)
    twice = tuple(2 * side for side in grid)
    bigger = MobileClipImageEncoder(image, 16, dtype="float64")
    positions = keras.ops.convert_to_tensor(backbone.pos_embed)
    batch = images(size, 2).astype(np.float64)
    made = apply(model.image_encoder, batch)
    assert made.shape == (2, 16) and bigger.image_size == size // 2
    resized = keras.ops.convert_to_numpy(resize_positions(positions[:, prefix:], grid, twice))
    first = keras.ops.convert_to_numpy(positions[:, :prefix])
    embedded = keras.ops.convert_to_numpy(backbone.stage_outputs(batch)["embeddings"])
    backbone.pos_embed.assign(np.zeros(backbone.pos_embed.shape))
    if backbone.norm_pre is None:
        bare = keras.ops.convert_to_numpy(backbone.stage_outputs(batch)["embeddings"])
        added = embedded - bare
        assert error(added[:, 1:], np.broadcast_to(resized, added[:, 1:].shape)) < 1e-12
        assert not np.any(added[:, 0])
    else:
        assert first.shape == (1, 1, 32)


@pytest.mark.backend
@pytest.mark.torch
@pytest.mark.parametrize("tower", ["small_vit", "small_vit_clip"])
def test_position_embeddings_for_another_size(tower: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained at another size is computed at it, as timm's model of that size does."""
    from mobileclip_keras.converters.checkpoints.identify import _at_size

    size = {"small_vit": 96, "small_vit_clip": 84}[tower]
    rows = [_at_size(row, tower, size) for row in image_rows(tower, "timm")]
    shapes = [(row.source, row.source_shape) for row in rows if row.source != NONE]
    state = synthetic.state_dict(shapes, 0)
    from . import small_torch

    config = replace(SMALL_IMAGE_TOWERS[tower], image_size=size)
    monkeypatch.setitem(small_torch.SMALL_IMAGE_TOWERS, tower, config)
    reference = small_torch.small_reference(tower, None, "timm", state)
    monkeypatch.undo()
    with float64_enabled():
        options = {"projection_bias": True, "dtype": "float64", "stem_padding": 1 if tower == "small_vit" else 0}
        model = MobileClipModel(MobileClipImageEncoder(tower, EMBED_DIM, position_size=size, **options))
        load_into(model, checkpoint(state), tuple(rows))
        batch = synthetic.images(2, 96, seed=0)[:, :size, :size]
        assert error(apply(model.image_encoder, batch), reference.encode_image(batch)) < 1e-10
        assert model.image_encoder.image_size == size
        copy = type(model).from_config(model.get_config())
        assert copy.image_encoder.backbone.pos_embed.shape == model.image_encoder.backbone.pos_embed.shape
