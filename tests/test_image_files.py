"""What the command line takes for an image, and what the reader says of paths that lead to none."""

from pathlib import Path

import pytest
from PIL import Image

from mobileclip_keras.converters.cli.image_files import find_images
from mobileclip_keras.keras_models.inputs.image_reading import ImageError, read_image, readable_suffixes


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.jpg",
        "http://example.com/cat.jpg?width=[200]",
        "s3://bucket/cat.jpg",
        "file:///tmp/cat.jpg",
        "data:image/png;base64," + "A" * 1000,
        Path("https://example.com/cat.jpg"),
    ],
)
def test_urls_are_not_fetched(url: str | Path) -> None:
    with pytest.raises(
        ImageError, match=r"is a URL, and URLs are not fetched\. Download it, and give the file\."
    ) as error:
        read_image(url, str(url))
    assert len(str(error.value)) < 300
    assert find_images([str(url)]) == [str(url)]  # which the reader then reports


def test_a_file_that_is_named_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("https:").mkdir()
    Image.new("RGB", (2, 2)).save("https:/cat.png")
    assert read_image("https:/cat.png", "it").size == (2, 2)
    with pytest.raises(ImageError, match=r"C:/cat\.png does not exist"):
        read_image("C:/cat.png", "C:/cat.png")


def test_folders_give_what_the_reader_reads_alone(tmp_path: Path) -> None:
    for suffix in Image.registered_extensions():
        (tmp_path / f"file{suffix}").write_bytes(b"")
    names = {Path(path).suffix for path in find_images([str(tmp_path)])}
    assert names == readable_suffixes()
    assert {".jpg", ".png", ".webp", ".tiff", ".gif", ".bmp", ".mpo"} <= names
    assert not names & {".h5", ".hdf", ".pdf", ".mpg", ".grib", ".wmf", ".palm"}
    assert {Path(path).suffix for path in find_images([str(tmp_path / "*")])} == names


def test_what_pillow_can_write_the_folder_gives_and_the_reader_reads(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), "red")
    written = 0
    for suffix, name in Image.registered_extensions().items():
        path = tmp_path / f"file{suffix}"
        try:
            image.save(path, name)
        except Exception:  # a format that is read alone, or that holds no RGB
            path.unlink(missing_ok=True)
            continue
        try:
            readable = bool(read_image(path, suffix))
        except ImageError:
            readable = False
        assert (suffix in readable_suffixes()) == readable, suffix
        written += readable
    assert written > 15


def test_a_program_by_the_name_of_an_image_is_not_run(tmp_path: Path) -> None:
    """Pillow looks at the content, not at the name, and would hand PostScript to Ghostscript."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="is not an image"):
        read_image(tmp_path / "a.jpg", "a.jpg")
    assert ".eps" not in readable_suffixes()
