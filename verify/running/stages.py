"""Stages of both towers under one set of names."""

from typing import Any


def named(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return {f"{tower} {name}": value for tower, d in (("image", image), ("text", text)) for name, value in d.items()}
