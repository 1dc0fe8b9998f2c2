"""The page's tokenizer and preprocessing, in a browser, beside the package's own."""

import base64
import html.entities
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy
import numpy as np
import pytest
from PIL import Image, ImageCms

from mobileclip_keras import verify
from mobileclip_keras.converters.deploy import web
from mobileclip_keras.converters.deploy.contents.corpus import corpus
from mobileclip_keras.converters.deploy.web.browser import opened_page, why_no_browser
from mobileclip_keras.converters.deploy.web.cleaning_tables import cleaning_tables, javascript_pattern
from mobileclip_keras.converters.deploy.web.serving import served
from mobileclip_keras.keras_models.inputs.image_reading import read_image
from mobileclip_keras.keras_models.inputs.preprocessing import ImagePreprocessor
from mobileclip_keras.keras_models.inputs.tokenizer import Tokenizer
from mobileclip_keras.keras_models.registry import OPENAI_MEAN, OPENAI_STD

if TYPE_CHECKING:
    from playwright.sync_api import Page

needs_browser = pytest.mark.skipif(why_no_browser() is not None, reason=f"no browser: {why_no_browser()}")

PAGE = Path(web.__file__).parent / "page"
MERGES = Path(verify.__file__).parents[1] / "keras_models/inputs/assets/clip_merges.txt"
PHOTOS = sorted(Path(verify.__file__).parent.glob("photos/*.jpg"))
ENCODINGS = ("latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "iso-8859-2", "mac_roman", "cp437")

TOKENS = """async (texts) => {
  const { Tokenizer } = await import("/text/tokenizer.js");
  const read = async (file) => (await fetch(file)).text();
  const tokenizer = new Tokenizer(await read("/merges.txt"), JSON.parse(await read("/cleaning.json")));
  return texts.map((text) => Array.from(tokenizer.encode(text)));
}"""
PIXELS = """async ([file, images]) => {
  const { Preprocessor } = await import("/image/preprocess.js");
  const { decode } = await import("/image/decode.js");
  const blob = await (await fetch(file)).blob();
  const { picture, hasPalette } = await decode(new File([blob], "picture"));
  const preprocessor = new Preprocessor(images);
  const text = (array) => {
    const bytes = new Uint8Array(array.buffer);
    let out = "";
    for (let at = 0; at < bytes.length; at += 4096) out += String.fromCharCode(...bytes.subarray(at, at + 4096));
    return btoa(out);
  };
  return [text(preprocessor.cut(picture, hasPalette)), text(preprocessor.prepare(picture, hasPalette))];
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Page]":
    """A browser with the page's modules at hand."""
    folder = tmp_path_factory.mktemp("page") / "page"
    shutil.copytree(PAGE, folder)
    shutil.copyfile(MERGES, folder / "merges.txt")
    (folder / "cleaning.json").write_text(json.dumps(cleaning_tables()))
    for name, content in pictures().items():
        (folder / name).write_bytes(content)
    with served(folder, {"/empty.html": b"<!doctype html>"}) as address, opened_page() as opened:
        opened.goto(f"{address}empty.html")
        yield opened


def mojibake() -> list[str]:
    """Sentences, decoded with every encoding that ftfy knows, some of them twice or with lost bytes."""
    found = []
    for text in ("Crème brûlée – “déjà vu”", "日本語", "Ёлка и κόσμε", "👩‍👩‍👧 🏳️‍🌈", "à la mode: às ½ €"):
        raw = text.encode()
        found += [raw.decode(encoding, "replace") for encoding in ENCODINGS]
        once = raw.decode("cp1252", "replace")
        found += [once.replace("\xa0", " "), once.encode().decode("latin-1"), f"plain “text” {once} <b>"]
        found.append(text.encode("utf-16", "surrogatepass").decode("utf-16").encode("utf-8").decode("latin-1"))
    return found


def references() -> list[str]:
    """HTML references of all kinds, whole and broken."""
    names = list(html.entities.html5)[::37]
    found = [f"a &{name} b" for name in names] + [f"&{name.upper()}x" for name in names]
    numbers = (0, 9, 13, 38, 128, 150, 159, 0xD800, 0xFDD0, 0xFFFE, 0x1F600, 0x110000, 10**30)
    found += [f"x&#{number};y &#x{number:x}z" for number in numbers]
    return [
        *found,
        "&amp;amp;lt;",
        "<p>&lt;b&gt;\n&amp;",
        "&#" + "9" * 5000 + ";",
        "&notit; &not a",
        "&#xd83d;&#xde00;",
    ]


def others() -> list[str]:
    """Characters whose case, class or width is odd, and texts that are far too long."""
    odd = [
        "'ſ ſt '",
        "<ſtart_of_text> <START_OF_TEXT>",
        "ᾳ ᾼ\u0345",
        "İ ΣΊΣΥΦΟΣ ẞ ǅ",
        "Ⅷ①½²",
        "a\x00b\x1b[31mc\x85d\u2028",
    ]
    odd += ["ｆｕｌｌ　ｗｉｄｔｈ ｶﾞ", "e\u0301 A\u030a", "\u200b\ufeff\u206a", "I'LL DON'T we’ve", "_-_", "\x1c \x1d"]
    long = ["日本" * 6000, "x" * 9999 + " " + "\u0301" * 500, " " * 20000 + "end", "&" + "amp;" * 5000, "😀 " * 8000]
    return [*odd, *long, "a b\n" * 6000 + "é", "<" * 12000, "word " * 74 + "more words"]


@needs_browser
@pytest.mark.parametrize("kind", [corpus, mojibake, references, others])
def test_ids_are_those_of_python(page: "Page", kind: Callable[[], list[str]]) -> None:
    texts = kind()
    made = page.evaluate(TOKENS, texts)
    expected = Tokenizer()(texts).tolist()
    wrong = [text for text, ids, right in zip(texts, made, expected, strict=True) if ids != right]
    assert not wrong


def pictures() -> dict[str, bytes]:
    """Files of all formats that browsers read, by name."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (133, 217, 3), dtype=np.uint8))
    clear = Image.fromarray(rng.integers(0, 256, (133, 217, 4), dtype=np.uint8))
    turned, swapped = Image.Exif(), bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    turned[0x112] = 6
    red, green = swapped.find(b"rXYZ"), swapped.find(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    found = {path.name: path.read_bytes() for path in PHOTOS[:3]}

    def add(name: str, image: Image.Image, **options: object) -> None:
        file = io.BytesIO()
        image.save(file, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
        found[name] = file.getvalue()

    for name, image in {"noise": noise, "tiny": noise.resize((9, 7)), "thin": noise.resize((640, 50))}.items():
        add(f"{name}.png", image)
    add("exact.png", noise.resize((64, 64)))
    add("wide.png", noise.resize((91, 64)))
    add("noise.jpg", noise)
    add("grey.jpg", noise.convert("L"), progressive=True)
    add("noise.webp", noise, lossless=True)
    add("noise.bmp", noise)
    add("palette.png", noise.quantize(32))
    add("palette.gif", noise.quantize(32))
    add("bits.png", noise.convert("1"))
    add("clear.png", clear)
    add("clear_grey.png", clear.convert("LA"))
    add("turned.jpg", noise, exif=turned)
    add("profile.jpg", noise, icc_profile=bytes(swapped))
    return found


@needs_browser
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", pictures())
def test_pixels_are_those_of_python(page: "Page", name: str, interpolation: str) -> None:
    preprocessor = ImagePreprocessor(64, OPENAI_MEAN, OPENAI_STD, interpolation)
    resize = {"interpolation": interpolation}
    images = {"image_size": 64, "mean": OPENAI_MEAN, "std": OPENAI_STD, "resize": resize}
    pixels, numbers = (base64.b64decode(text) for text in page.evaluate(PIXELS, [f"/{name}", images]))
    content = pictures()[name]
    expected = np.asarray(preprocessor._cropped(read_image(content, name), name))
    np.testing.assert_array_equal(np.frombuffer(pixels, np.uint8).reshape(64, 64, 4)[..., :3], expected)
    np.testing.assert_array_equal(np.frombuffer(numbers, "<f4").reshape(64, 64, 3), preprocessor(content)[0])


def test_verbose_patterns_lose_their_white_space_and_comments() -> None:
    assert javascript_pattern(" a [ b#] # words\n \\w . {2} [\\]x ]") == r"a[ b#][\p{L}\p{N}_][^\n]{2}[\]x ]"


def test_the_tables_are_those_of_the_installed_ftfy() -> None:
    tables = cleaning_tables()
    assert [name for name, _ in tables["encodings"]] == ftfy.chardata.CHARMAP_ENCODINGS
    assert not re.search(r"#|\s(?![^\[]*\])", re.sub(r"\[(?:\\.|[^\]\\])*\]", "", tables["badness"]))
