"""What the Hub checks in the metadata of a model card."""

import yaml

# Those of the Hub's licence identifiers that this project meets, and the ones a person may mistake them for.
LICENSES = {"apache-2.0", "apple-amlr", "apple-ascl", "cc-by-nc-4.0", "mit", "other", "unknown"}
STRINGS = {"library_name", "license", "license_name", "license_link", "pipeline_tag"}


def card_problems(content: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) about a README.md: an error makes the Hub refuse the upload."""
    if not content.startswith("---\n") or "\n---" not in content[4:]:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(content[4 : content.index("\n---", 3)])
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not isinstance(metadata, dict):
        return ["metadata must be a mapping"], []
    errors = [f'"{key}" must be a string' for key in STRINGS if not isinstance(metadata.get(key, ""), str)]
    if metadata.get("license", "unknown") not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        errors.append('"tags" must be an array of strings')
    return errors, []
