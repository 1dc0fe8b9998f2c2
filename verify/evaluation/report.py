"""A certificate as Markdown."""

from typing import Any

from ...keras_models.shown import shown, shown_name

FORMAT = 1
"""Of a certificate."""
PROGRAM = "mobileclip-keras evaluate"
_MEANINGFUL = "\\`*[]<>|&~$#"


def markdown(content: dict[str, Any]) -> str:
    """A certificate for people: a table of figures, and what they are of."""
    model, data = content["model"], content["data"]
    published = content["published"] or {}
    lines = [
        f"# {escaped(model['variant'] or model['name'])} on {escaped(data['name'])}, {escaped(data['split'])}",
        "",
        *figure_table(content),
        "",
        *([escaped(published["says"], whole=True), ""] if published else []),
        *(
            f"- {title}: {escaped(text, whole=True)}"
            for title, text in (
                ("Model", f"{model['name']} ({model['kind']})"),
                ("Weights, SHA-256", model["weights_sha256"]),
                ("Data", f"{data['images']:,} images, {data['texts']:,} texts, fingerprint {data['fingerprint']}"),
                ("Templates", f"{data['templates']}, from {data['templates_from']}" if data["templates"] else "none"),
                ("Device", content["device"]["name"]),
                ("Software", ", ".join(f"{name} {value}" for name, value in content["software"].items())),
                ("Unreadable images", str(content["unreadable_images"])),
                ("Otherwise than Apple", " ".join(content["differences"]) or "nothing that is known"),
                ("Date", content["date"]),
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def figure_table(content: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table of a certificate's figures, with Apple's beside."""
    published = content["published"] or {}
    rows = [("Figure", "Measured", "95 % interval", "Made by", "Apple's")]
    rows.append(("---",) * 5)
    for name, figure in content["figures"].items():
        known = name == published.get("metric") and published.get("value") is not None
        rows.append(
            (
                escaped(name),
                f"{figure['value']:.2%}",
                f"{figure['low']:.2%} to {figure['high']:.2%}",
                escaped(figure["interval"]),
                f"{published['value']:.2%}" if known else "",
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def escaped(text: str, whole: bool = False) -> str:
    """Text as it is, where Markdown and HTML would take it for more; as short as a name, unless it is wanted whole."""
    name = shown(text) if whole else shown_name(text)
    return "".join(f"&#{ord(each)};" if each in _MEANINGFUL else each for each in name)
