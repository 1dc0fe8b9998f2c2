"""What a model card says of evaluations: to the Hub in its front matter, and to people in a section."""

from pathlib import PurePath
from typing import Any

from ...keras_models.shown import shown_name
from ...verify.evaluation.data.dataset import RETRIEVAL
from ...verify.evaluation.report import escaped, figure_table

TASKS = {RETRIEVAL: "image-text-retrieval"}
USUAL_TASK = "zero-shot-image-classification"
LONGEST_LINE = 1 << 16


def model_index(title: str, certificates: tuple[dict[str, Any], ...]) -> str:
    """The lines of the front matter that hold figures, with the end of the line before them; "" without figures.

    See huggingface.co/docs/hub/model-cards#evaluation-results.
    """
    import yaml

    if not certificates:
        return ""
    index = [{"name": title, "results": [_result(each) for each in certificates]}]
    # In ASCII alone, so that nothing that cannot be seen stands in it.
    written = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=False, width=LONGEST_LINE)
    return "\n" + written.rstrip("\n")


def _result(certificate: dict[str, Any]) -> dict[str, Any]:
    data = certificate["data"]
    name = public_name(data)
    about = {"type": name, "name": name, "split": shown_name(data["split"])}
    if data["revision"]:
        about["revision"] = shown_name(data["revision"])
    metrics = [
        {"type": name, "name": name, "value": round(100 * figure["value"], 3), "verified": False}
        for name, figure in certificate["figures"].items()
    ]
    return {"task": {"type": TASKS.get(data["kind"], USUAL_TASK)}, "dataset": about, "metrics": metrics}


def public_name(data: dict[str, Any]) -> str:
    """A data set's name: a repository's id, or of a folder the last part, as nobody needs to know where it lay."""
    name = str(data["name"])
    return shown_name(name if data["revision"] else PurePath(name.replace("\\", "/")).name)


def evaluation_section(certificates: tuple[dict[str, Any], ...]) -> str:
    """The section on evaluations, with the empty lines before it; "" without figures."""
    if not certificates:
        return ""
    parts = [
        "## Evaluation",
        "Measured by the publisher with `mobileclip-keras evaluate`, on exactly these weights.",
        *(part for each in certificates for part in _paragraphs(each)),
    ]
    return "\n\n" + "\n\n".join(parts)


def _paragraphs(certificate: dict[str, Any]) -> list[str]:
    data, published = certificate["data"], certificate["published"]
    software = ", ".join(f"{name} {value}" for name, value in certificate["software"].items())
    of = (
        f"{data['images']:,} images and {data['texts']:,} texts, fingerprint {data['fingerprint']}. Computed on "
        f"{certificate['device']['name']} by {software}, {certificate['date']}."
    )
    return [
        f"### {escaped(public_name(data))}, {escaped(data['split'])}",
        "\n".join(figure_table(certificate)),
        *([escaped(published["says"], whole=True)] if published else []),
        escaped(of, whole=True),
    ]
