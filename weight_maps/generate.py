"""Writes the table files: python -m mobileclip_keras.weight_maps.generate"""

from collections.abc import Iterator
from pathlib import Path

from ..keras_models.architectures import IMAGE_TOWERS, TEXT_TOWERS, FastViTConfig
from ..keras_models.registry import VARIANTS
from . import walks
from .table import LAYOUTS, TABLES, Row, write_rows

EMBED_DIMS = {
    tower: variant.embed_dim for variant in VARIANTS.values() for tower in (variant.image_tower, variant.text_tower)
}

# A causal mask is no tensor, so both 512-wide transformers share their tables.
TEXT_TABLES = {name: config for name, config in TEXT_TOWERS.items() if not config.causal}


def tables() -> Iterator[tuple[str, tuple[Row, ...]]]:
    """Every (file name, rows)."""
    for tower, image in IMAGE_TOWERS.items():
        has_branches = isinstance(image, FastViTConfig)
        for layout in _image_layouts(tower):
            for form in _forms(has_branches):
                if isinstance(image, FastViTConfig):
                    rows = walks.fastvit(image, EMBED_DIMS[tower], layout, form)
                else:
                    rows = walks.vit(image, EMBED_DIMS[tower], layout, form)
                yield f"{tower}.{layout}.{form}.tsv", tuple(rows)
    for tower, text in TEXT_TABLES.items():
        for layout in _text_layouts(tower):
            for form in _forms("repmixer" in text.blocks):
                yield f"{tower}.{layout}.{form}.tsv", tuple(walks.text(text, EMBED_DIMS[tower], layout, form))


def _forms(has_branches: bool) -> tuple[str, ...]:
    return ("train", "reparameterized") if has_branches else ("train",)


def _image_layouts(tower: str) -> tuple[str, ...]:
    """Apple's code has no mci3, mci4 and ViT-L/14. No text tower goes with this project's own in open_clip."""
    if tower == "mci_shapes":
        return ("apple", "timm")
    return LAYOUTS if tower in ("mci0", "mci1", "mci2", "vit_b16") else ("open_clip", "timm")


def _text_layouts(tower: str) -> tuple[str, ...]:
    """open_clip has no RepMixer text tower, and Apple's code no 768-wide one."""
    if "repmixer" in TEXT_TOWERS[tower].blocks:
        return ("apple",)
    return ("open_clip",) if tower == "transformer_768" else ("apple", "open_clip")


def main(folder: Path = TABLES) -> None:
    """Writes every table file into `folder` and removes the others there."""
    written = set()
    for name, rows in tables():
        write_rows(folder / name, rows)
        written.add(name)
    for path in folder.glob("*.tsv"):
        if path.name not in written:
            path.unlink()


if __name__ == "__main__":
    main()
