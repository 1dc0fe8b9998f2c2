"""What strangers wrote is shown escaped: on the terminal, in tables, in errors, in the model card."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table
from typer.testing import CliRunner

from mobileclip_keras.converters.cli import terminal, use
from mobileclip_keras.converters.cli.app import app
from mobileclip_keras.converters.hub.model_card import CardInfo, Check, CostRow, render_card
from mobileclip_keras.keras_models.registry import get_variant
from mobileclip_keras.keras_models.shown import shown, shown_name
from mobileclip_keras.keras_models.tasks.embedding_files import Embeddings

RUNNER = CliRunner()
EVIL = "a\x1b[31m\x1b]0;title\x07\r\u202eb\u200bc\nError: all is well\x9b2J[bold]d[/bold]"
SHOWN = r"a\x1b[31m\x1b]0;title\x07\r\u202eb\u200bc\nError: all is well\x9b2J[bold]d[/bold]"


def is_plain(text: str) -> bool:
    return not set(text) & set("\x1b\x07\r\u202e\u200b\x9b") and "\nError: all is well" not in text


def test_what_cannot_be_seen_is_written_out() -> None:
    assert shown(EVIL) == SHOWN and shown(SHOWN) == SHOWN
    assert shown("a\nb", keep="\n") == "a\nb"
    assert shown("\x00\x7f\x85\u2028\u2066\ufeff\u00ad\U000e0041\ud800\u3164\t") == (
        r"\x00\x7f\x85\u2028\u2066\ufeff\xad\U000e0041\ud800\u3164\t"
    )
    assert shown("a\u200db") == r"a\u200db" and shown("\u200d") == r"\u200d"


@pytest.mark.parametrize(
    "name",
    [
        "café.jpg",
        "фото собаки",
        "写真・猫",
        "사진",
        "صورة قطة",
        "می\u200cخواهم",
        "क्\u200dष नमस्ते",
        "תמונה",
        "ภาพแมว",
        "👨\u200d👩\u200d👧 ❤️ 🇫🇷",
        "e\u0301",
        r"C:\new\table",
        "ﬁle №5 — “x”",
    ],
)
def test_real_names_stay_readable(name: str) -> None:
    assert shown(name) == name


def test_long_names_are_shortened() -> None:
    assert len(shown_name("a" * 5000)) < 220 and shown_name("a" * 200) == "a" * 200


def test_the_door_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("a", title=EVIL)
    table.add_row(shown(EVIL))
    for thing in (EVIL, table):
        terminal._Door(width=300).print(thing)
        text = capsys.readouterr().out
        assert not set(text) & set("\x1b\x07\r\u202e\u200b\x9b"), text
        assert "[bold]d[/bold]" in text and r"\x1b[31m" in text and r"\x07\r\u202e" in text


def output(*arguments: object) -> str:
    done = RUNNER.invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.output


def test_names_in_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({EVIL: torch.ones(2), "image_encoder." + EVIL: torch.ones(3), "note": 1, EVIL * 2: "note"}, path)
    text = output("inspect", path)
    assert is_plain(text) and r"\x1b[31m" in text
    torch.save({"state_dict": {EVIL: torch.ones(2)}, EVIL: 3}, path)
    assert is_plain(output("convert", "--src", path, "--out", tmp_path / "out"))
    torch.save({"a\x1b": torch.ones(2), "a\\x1b": torch.ones(2)}, path)
    assert "differ only in characters that cannot be seen" in output("inspect", path)
    torch.save({"a" * 5000: torch.ones(2)}, path)
    assert len(output("inspect", path)) < 500


def test_names_of_files(tmp_path: Path) -> None:
    name = EVIL.replace("/", "")
    for command in (
        ("inspect", tmp_path / f"{name}.pt"),
        ("convert", "--src", tmp_path / f"{name}.pt"),
        ("to-torch", tmp_path / name, "--out", tmp_path / f"{name}.txt"),
        ("publish", tmp_path / name, "--repo", f"user/{name}"),
        ("publish", tmp_path / name, "--repo", "user/name"),
        ("classify", tmp_path, "--labels", "a", "--model", name),
        ("search", "a", "--in", tmp_path / f"{name}.npz"),
    ):
        text = output(*command)
        assert is_plain(text) and text.count("\n") < 4, text


def test_words_in_a_file_of_features(tmp_path: Path) -> None:
    features = np.eye(1, 8, dtype=np.float32)
    Embeddings(EVIL, (EVIL,), features, (), features[:0]).save(tmp_path / "a.npz")
    assert is_plain(output("search", "cat", "--in", tmp_path / "a.npz"))


def test_records_and_the_card(tmp_path: Path) -> None:
    evil = EVIL + "`code` | <script>alert(1)</script> [link](https://example.org) **bold** $repo_id"
    info = CardInfo(
        "user/name",
        get_variant("s0"),
        evil,
        evil,
        ("train",),
        dtype=evil,
        source_dtype="float32",
        reference=evil,
        images=1,
        texts=1,
        checks=(replace(CHECK, program=evil),),
        device=evil,
        switches=(evil,),
        costs=(CostRow(evil, 0.1, 0.1, 1.0, 0),),
    )
    card = render_card(info)
    assert is_plain(card)
    usual = render_card(replace(info, source_file="a", source_sha256="a", dtype="a", reference="a", device="a"))
    assert card.count("\n") == usual.count("\n")
    outside = "".join(part for line in card.splitlines() for part in line.split("`")[::2])
    assert "<script>" not in outside and "[link](" not in outside and "**bold**" not in outside
    rows = [line for line in card.splitlines() if line.startswith("| train")]
    assert all(row.count("|") == 8 for row in rows) and rows


CHECK = Check("train", "tensorflow", 1e-14, 1.0, 1.0, True)


def test_images_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    batches: Any = SimpleNamespace(unreadable={EVIL: f"{EVIL} is not an image"})
    use._finish(batches, 1, False)
    text = capsys.readouterr().err
    assert is_plain(text) and text.count("\n") == 2
