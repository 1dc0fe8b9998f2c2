"""The preprocessing against torchvision's own, bit for bit."""

import io
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode, _compute_resized_output_size

from mobileclip_keras.keras_models.errors import MobileClipError
from mobileclip_keras.keras_models.inputs.geometry import centre_offset, resized_size
from mobileclip_keras.keras_models.inputs.preprocessing import ImageError, ImagePreprocessor
from mobileclip_keras.keras_models.registry import OPENAI_MEAN, OPENAI_STD, VARIANTS

PHOTOS = sorted((Path(__file__).parent.parent / "verify" / "photos").glob("*.jpg"))

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"]
SIZES = [
    *[
        (256, 256),
        (255, 255),
        (257, 256),
        (256, 259),
        (511, 512),
        (300, 200),
        (200, 300),
        (427, 641),
        (1024, 31),
    ],
    *[(1, 1), (1, 40), (40, 1), (3, 200), (2, 3), (7, 5), (64, 64)],
]  # (width, height)


def torchvision_says(image: Image.Image, preprocess: ImagePreprocessor) -> np.ndarray:
    pipeline = transforms.Compose(
        [
            transforms.Resize(preprocess.image_size, InterpolationMode(preprocess.interpolation)),
            transforms.CenterCrop(preprocess.image_size),
            lambda resized: resized.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )
    return pipeline(image).permute(1, 2, 0).numpy()


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """An image of `mode` whose every channel, palette and transparency matters."""
    rng = np.random.default_rng([width, height, seed])

    def channels(count: int) -> np.ndarray:
        return rng.integers(0, 256, (height, width, count), dtype=np.uint8)

    match mode:
        case "1":
            return Image.fromarray(channels(1)[..., 0] > 127)
        case "P" | "PA":
            image = Image.fromarray(channels(1)[..., 0]).convert("P")
            image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
            if mode == "P":
                image.info["transparency"] = 7
            return image.convert("PA") if mode == "PA" else image
        case "RGBa":
            return noise(width, height, mode.upper(), seed).convert(mode)
        case "HSV":
            return Image.fromarray(channels(3)).convert("HSV")
        case _:
            count = len(Image.new(mode, (1, 1)).getbands())
            return Image.frombytes(mode, (width, height), channels(count).tobytes())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_shape_equals_torchvision(mode: str, interpolation: Any) -> None:
    plain = ImagePreprocessor(64, interpolation=interpolation)
    openai = ImagePreprocessor(56, OPENAI_MEAN, OPENAI_STD, interpolation)
    for width, height in SIZES:
        image = noise(width, height, mode)
        assert image.mode == mode
        for preprocess in (plain, openai):
            assert_same_bits(preprocess(image)[0], torchvision_says(image, preprocess))


@pytest.mark.parametrize("variant", ["mobileclip_s2", "mobileclip2_s4", "mobileclip_l14", "mobileclip_b"])
def test_photographs_equal_torchvision(variant: str) -> None:
    preprocess = ImagePreprocessor.from_variant(variant)
    assert len(PHOTOS) == 8
    batch = preprocess(PHOTOS)
    for path, ours in zip(PHOTOS, batch, strict=True):
        assert_same_bits(ours, torchvision_says(Image.open(path), preprocess))


def test_geometry_is_torchvisions_for_every_side() -> None:
    for target in (224, 256, 7):
        for long in range(1, 2500, 3):
            assert centre_offset(target + long, target) == round(long / 2.0)
            for short in {1, 2, 3, 17, 255, 256, 257, long // 2, long // 3 * 2, long - 1, long}:
                if 1 <= short <= long:
                    expected = _compute_resized_output_size((short, long), [target])
                    assert list(resized_size(short, long, short, target)) == expected
                    assert list(resized_size(long, short, short, target)) == expected[::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone_first(orientation: Any, kind: Any) -> None:
    upright = Image.open(PHOTOS[0]).resize((75, 100))
    turns = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))

    preprocess = ImagePreprocessor(32)
    from_file = preprocess(file.getvalue())[0]
    difference = np.abs(from_file - torchvision_says(upright, preprocess)).max()
    assert difference == 0 if kind != "JPEG" else difference < 0.05  # JPEG loses a little; a wrong turn is 0.9


def test_damaged_exif_data_is_passed_over() -> None:
    preprocess = ImagePreprocessor(16)
    image = noise(30, 20)
    orientation_6 = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    date_that_lies_nowhere = b"\x01\x32\x00\x0a\x00\x00\x00\x01\xff\xff\xff\xff"
    damaged = {
        b"Exif\x00\x00nonsense": image,
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff": image,
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x02" + orientation_6 + date_that_lies_nowhere: image.rotate(
            -90, expand=True
        ),
    }
    for exif, upright in damaged.items():
        file = io.BytesIO()
        image.save(file, "PNG", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_same_bits(preprocess(file.getvalue())[0], torchvision_says(upright, preprocess))


def every_form(tmp_path: Path, image: Image.Image) -> list:
    path = tmp_path / "image.png"
    image.save(path)
    content = path.read_bytes()
    return [path, str(path), content, bytearray(content), io.BytesIO(content), image, np.asarray(image)]


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    preprocess = ImagePreprocessor(32)
    image = noise(50, 40)
    expected = torchvision_says(image, preprocess)
    sources = every_form(tmp_path, image)
    for source in sources:
        single = preprocess(source)
        assert single.shape == (1, 32, 32, 3)
        assert_same_bits(single[0], expected)
    with open(tmp_path / "image.png", "rb") as file:
        assert_same_bits(preprocess(file)[0], expected)
    for several in ([*sources[:4], *sources[5:]], tuple(every_form(tmp_path, image))):
        batch = preprocess(several)
        assert batch.shape == (len(several), 32, 32, 3)
        assert_same_bits(batch, np.stack([expected] * len(several)))
    assert_same_bits(preprocess(torch.from_numpy(np.array(image)))[0], expected)
    assert preprocess([]).shape == (0, 32, 32, 3)


def test_arrays() -> None:
    preprocess = ImagePreprocessor(16)
    rgb = np.asarray(noise(30, 20))
    rgba = np.asarray(noise(30, 20, "RGBA"))
    expected = preprocess(Image.fromarray(rgb))
    for array in (
        rgb.astype(np.float32) / 255,
        rgb.astype(np.float64) / 255,
        (rgb / 255).astype(np.float16),
        rgb.astype(np.uint16) * 257,
        rgb.astype(np.uint16) * 257 - np.where(rgb > 0, 128, 0).astype(np.uint16),  # the farthest that rounds to it
        rgb[None],
        rgb[::-1][::-1],
        np.asfortranarray(rgb),
    ):
        assert_same_bits(preprocess(array), expected)
    assert_same_bits(preprocess(rgba)[0], torchvision_says(Image.fromarray(rgba), preprocess))
    grey = rgb[..., 0]
    for array in (grey, grey[..., None], grey / 255):
        assert_same_bits(preprocess(array)[0], torchvision_says(Image.fromarray(grey), preprocess))
    black_and_white = (grey > 127).astype(np.uint8) * 255
    assert_same_bits(preprocess(grey > 127), preprocess(black_and_white))
    assert_same_bits(preprocess(np.stack([rgb, rgb[::-1]])), np.concatenate([expected, preprocess(rgb[::-1])]))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    as_eight_bit = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    preprocess = ImagePreprocessor(64)
    expected = torchvision_says(as_eight_bit, preprocess)
    assert expected.min() == 0 and expected.max() == 1 and len(np.unique(expected)) == 256
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values).save(tmp_path / "grey.tiff")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "integers.tiff")
    Image.fromarray((values / 65535).astype(np.float32)).save(tmp_path / "floats.tiff")
    big_endian = Image.frombytes("I;16B", (64, 64), values.astype(">u2").tobytes())
    files = {"I;16": "grey.png", "I;16 ": "grey.tiff", "I": "integers.tiff", "F": "floats.tiff"}
    for mode, name in files.items():
        assert Image.open(tmp_path / name).mode == mode.strip()
        assert_same_bits(preprocess(tmp_path / name)[0], expected)
    assert_same_bits(preprocess(big_endian)[0], expected)


def test_given_images_are_left_as_they_were() -> None:
    image, array = noise(30, 20), np.asarray(noise(30, 20)).copy()
    before = image.tobytes()
    ImagePreprocessor(16)([image, array])
    assert image.tobytes() == before == array.tobytes()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "bad.jpg"
    path.write_bytes(content)
    return path


GOOD = PHOTOS[0].read_bytes()
BAD_SOURCES = {
    "missing": (lambda folder: folder / "no.jpg", r"no\.jpg does not exist"),
    "folder": (lambda folder: folder, "cannot be read: .*directory"),
    "text": (lambda folder: written(folder, b"this is no image"), r"bad\.jpg is not an image"),
    "empty": (lambda folder: written(folder, b""), r"bad\.jpg is not an image"),
    "cut": (lambda folder: str(written(folder, GOOD[:9000])), r"bad\.jpg cannot be read: .*truncated"),
    "header": (lambda folder: written(folder, GOOD[:200]), r"bad\.jpg"),
    "lazy": (lambda folder: Image.open(written(folder, GOOD[:9000])), "number 0 cannot be read: .*truncated"),
    "bytes": (lambda folder: b"no image", "Image number 0 is not an image"),
    "second of a list": (lambda folder: [PHOTOS[0], b"no image"], "Image number 1 is not an image"),
    "no way to RGB": (lambda folder: Image.new("La", (9, 9)), "cannot be converted to RGB"),
    "no pixels": (lambda folder: Image.new("RGB", (0, 5)), "no pixels"),
    "empty array": (lambda folder: np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
    "channels first": (lambda folder: np.zeros((3, 40, 50), np.uint8), r"shape \(3, 40, 50\)"),
    "one dimension": (lambda folder: np.zeros(9, np.uint8), r"shape \(9,\)"),
    "int64": (lambda folder: np.zeros((9, 9, 3), np.int64), "int64; give uint8"),
    "float 255": (lambda folder: np.full((9, 9, 3), 255.0), r"from 255 to 255; floats must lie in \[0, 1\]"),
    "negative": (lambda folder: np.full((9, 9), -0.1), "from -0.1 to -0.1"),
    "NaN": (lambda folder: np.full((9, 9), np.nan), "from nan to nan"),
    "wide integers": (lambda folder: Image.new("I", (9, 9), 70000), "outside 0…65535"),
    "wide floats": (lambda folder: Image.new("F", (9, 9), 255.0), "from 255 to 255"),
}


@pytest.mark.parametrize(("source", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, source: Path, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        ImagePreprocessor(32)(source(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (5, "Image number 0 must be .*, not int"),
        (None, "not NoneType"),
        ([PHOTOS[0], [PHOTOS[0]]], "Image number 1 must be .*, not list"),
        (io.StringIO("text"), 'mode "rb"'),
    ],
)
def test_what_is_no_image_at_all_is_a_type_error(source: Path, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ImagePreprocessor(32)(source)


def test_image_errors_are_the_projects() -> None:
    assert issubclass(ImageError, MobileClipError)


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noise(100, 100).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ImageError, match=r"large.png cannot be read: .*exceeds limit"):
        ImagePreprocessor(16)(tmp_path / "large.png")
    with pytest.raises(ImageError, match="too narrow: 1 × 50 would become 16 × 800"):
        ImagePreprocessor(16)(noise(1, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert ImagePreprocessor(16)(noise(1, 50)).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_give_an_array_or_an_image_error(kind: Any) -> None:
    file = io.BytesIO()
    Image.open(PHOTOS[0]).resize((48, 64)).save(file, kind)
    rng = random.Random(kind)
    preprocess = ImagePreprocessor(16)
    refused = 0
    for _ in range(150):
        content = bytearray(file.getvalue())
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content) if rng.random() < 0.3 else 100)] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(1, len(content)) :]
        try:
            assert np.isfinite(preprocess(bytes(content))).all()
        except ImageError as error:
            assert str(error).startswith("Image number 0")
            refused += 1
    assert 0 < refused < 150


def test_saving_and_loading(tmp_path: Path) -> None:
    preprocess = ImagePreprocessor(224, OPENAI_MEAN, OPENAI_STD, "bicubic")
    preprocess.save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "preprocessor_config.json").read_text())
    assert config["size"] == {"shortest_edge": 224} and config["crop_size"] == {"height": 224, "width": 224}
    assert config["resample"] == Image.Resampling.BICUBIC and config["image_mean"] == list(OPENAI_MEAN)
    assert config["image_processor_type"] == "CLIPImageProcessor" and config["do_center_crop"] is True
    loaded = ImagePreprocessor.from_pretrained(str(tmp_path / "new"))
    assert vars(loaded) == vars(preprocess)
    assert_same_bits(loaded(PHOTOS), preprocess(PHOTOS))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_its_own(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    preprocess = ImagePreprocessor.from_pretrained(variant.short_name)
    assert (preprocess.image_size, preprocess.mean, preprocess.std, preprocess.interpolation) == (
        variant.image_size,
        variant.mean,
        variant.std,
        variant.interpolation,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "sets do_center_crop to false"),
        ({"crop_size": {"height": 256, "width": 200}}, "'width': 200"),
        ({"crop_size": {"height": 200, "width": 200}}, "'height': 200"),
        ({"resample": 0}, "resample must be 2"),
        ({"size": 256}, "size must be an object, not 256"),
        ({"size": {"height": 256, "width": 256}}, "does not say 'size.shortest_edge'"),
        ({"size": {"shortest_edge": 10**9}}, "size.shortest_edge must be a whole number from 1 to 4096"),
        ({"size": {"shortest_edge": True}}, "size.shortest_edge must be a whole number"),
        ({"image_mean": [0, 0]}, "image_mean must hold 3 values, not 2"),
        ({"image_mean": [0, None, 0]}, r"image_mean\[1\] must be a number"),
        ({"image_std": [1, 0, 1]}, r"image_std\[1\] must be a number from 0.001 to 1000, not 0"),
        ({"image_std": [1, 1e-320, 1]}, r"image_std\[1\] must be a number from 0.001"),
        ({"image_std": [1, -1, 1]}, r"image_std\[1\] must be a number from 0.001"),
        ({"image_std": [1, float("nan"), 1]}, "NaN is no number"),
        ({"image_std": "none"}, "image_std must be a list"),
        ({"rescale_factor": 1.0}, "rescale_factor must be a number"),
        ({"do_resize": "yes"}, "do_resize must be true or false"),
    ],
)
def test_a_configuration_that_asks_for_something_else_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    ImagePreprocessor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MobileClipError, match=message):
        ImagePreprocessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [None, "", "[1]", "{}"])
def test_a_missing_or_damaged_configuration_is_refused(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(MobileClipError, match=r"preprocessor_config\.json"):
        ImagePreprocessor.from_pretrained(tmp_path)


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(MobileClipError, match="no-such-thing"):
        ImagePreprocessor.from_pretrained("no-such-thing")


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 0},
        {"image_size": 2.5},
        {"image_size": 10**9},
        {"image_size": True},
        {"mean": (0, 0)},
        {"std": (0, 1, 1)},
        {"std": (-1, 1, 1)},
        {"std": (1e-320, 1, 1)},
        {"std": (1, 1, float("nan"))},
        {"interpolation": "nearest"},
    ],
)
def test_impossible_settings_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ImagePreprocessor(**arguments)


def test_importing_is_light() -> None:
    code = (
        "import sys; from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor;"
        "ImagePreprocessor(); print({'PIL', 'keras', 'torch', 'tensorflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
