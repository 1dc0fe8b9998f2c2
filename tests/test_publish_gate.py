"""What `publish` asks of a folder: each thing is forged, and refused in words. Nothing here is sent."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import mobileclip_keras as mk
from mobileclip_keras.converters.hub import publish as publishing
from mobileclip_keras.converters.hub.agreement import find_disagreements
from mobileclip_keras.converters.hub.contents import TOKENIZER_FILES, file_hashes, find_changes, published_files
from mobileclip_keras.converters.hub.publish import find_problems
from mobileclip_keras.converters.hub.records import read_record, weight_hashes
from mobileclip_keras.converters.hub.trial import find_differences
from mobileclip_keras.converters.hub.verdict import find_faults, find_gaps
from mobileclip_keras.keras_models.models.copying import copy_model
from mobileclip_keras.keras_models.store.weights_file import save_model
from tests.converted import MEAN, VARIANT, pass_verification, record_sample
from tests.small import small_model

pytestmark = pytest.mark.usefixtures("small_towers")

CONVERSION, VERIFICATION = "conversion.json", "verification.json"

BOUND = (
    *(f"{place}{name}" for place in ("", "train/") for name in ("config.json", "metadata.json", "model.weights.h5")),
    *("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("LICENSE", CONVERSION, "verification.png"),
)


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def change(path: Path, *keys: Any, to: Any) -> None:
    """Sets one value in a JSON file."""
    content = part = load(path)
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(content))


def forge_hashes(folder: Path) -> None:
    """Makes the records say that the folder's files are those that were verified."""
    change(folder / CONVERSION, "weights_sha256", to=weight_hashes(folder))
    change(folder / VERIFICATION, "files_sha256", to=file_hashes(folder))


# Every file is bound


def changes(folder: Path) -> list[str]:
    found = file_hashes(folder)
    missing = [path for path in published_files(folder) if path not in found and path != VERIFICATION]
    return find_changes(found, load(folder / VERIFICATION), missing)


def test_each_file_that_changed_is_named(publishable: Path) -> None:
    assert {*published_files(publishable)} == {*BOUND, VERIFICATION} and changes(publishable) == []
    for path in BOUND:
        content = (publishable / path).read_bytes()
        (publishable / path).write_bytes(content + b" ")
        assert changes(publishable) == [f"{path} has changed since it was verified"]
        (publishable / path).write_bytes(content)


def test_each_file_that_the_record_lacks_or_invents_is_named(publishable: Path) -> None:
    noted = load(publishable / VERIFICATION)["files_sha256"]
    for path in BOUND:
        change(publishable / VERIFICATION, "files_sha256", to={key: noted[key] for key in noted if key != path})
        assert changes(publishable) == [f"verification.json does not say what {path} was"]
    change(publishable / VERIFICATION, "files_sha256", to=noted | {"a\x1b.py": "ab" * 32})
    assert changes(publishable) == ["verification.json names a\\x1b.py, which is no file of this folder"]


def test_all_problems_are_listed_together(publishable: Path) -> None:
    (publishable / "verification.png").unlink()
    (publishable / "LICENSE").write_text("MIT")
    change(publishable / "train" / "config.json", "config", "variant", to="mobileclip_s2")
    change(publishable / "preprocessor_config.json", "image_mean", to=[0.5, 0.5, 0.5])
    change(publishable / "tokenizer_config.json", "model_max_length", to=64)
    change(publishable / VERIFICATION, "float32", 1, "top1_differences", to=2)
    assert find_problems(publishable) == [
        "it has no verification.png",
        "the inference form in float32 by predict failed its comparison with PyTorch: the error is too large",
        "verification.json says that the verification passed, and it did not",
        "train/config.json has changed since it was verified",
        "LICENSE has changed since it was verified",
        "preprocessor_config.json has changed since it was verified",
        "tokenizer_config.json has changed since it was verified",
        "its LICENSE is not Apple's licence of the weights, word for word",
        f"train/config.json says variant: mobileclip_s2, where it should be {VARIANT}",
        f"preprocessor_config.json says mean: (0.5, 0.5, 0.5), where it should be {MEAN}",
        "tokenizer_config.json says model_max_length: 64, where it should be 77",
    ]


# "passed" is derived

ERRORS = {"rms": 1e-4, "torch_rms": 1e-4, "maximum": 5e-4, "torch_maximum": 4e-4, "length_error": 1e-7}
ROUNDING = {**ERRORS, "rms_ratio": 1.0, "max_ratio": 1.25, "top1_differences": 0, "passed": True}
EXACT = {"image": 1e-14, "text": 1e-14, "logit_scale": 0.0, "logit_bias": None, "passed": True}
CONFIGS = {form: {"image_encoder": {}, "text_encoder": {}} for form in ("inference", "train")}


def record(backend: str = "tensorflow") -> dict[str, Any]:
    """Of a verification that passed."""
    programs = ("encode", "graph" if backend == "torch" else "predict")
    checks = [{"form": form, "program": name, **ROUNDING} for form in CONFIGS for name in programs]
    return {
        "passed": True,
        "backend": backend,
        "float64": [{"form": form, **EXACT} for form in CONFIGS],
        "float32": checks[:-1] if backend == "torch" else checks,
        **{key: {"images": [], "texts": [], "logits": []} for key in ("inputs", "sample", "files_sha256")},
        "variant": VARIANT,
    }


def faults(content: dict[str, Any], configs: dict[str, Any] = CONFIGS) -> list[str]:
    return find_gaps(content) or find_faults(content, configs)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_verification_that_passed(backend: str) -> None:
    assert faults(record(backend)) == []


def test_each_form_needs_its_checks() -> None:
    for content in (record(), record("torch")):
        for key in ("float64", "float32"):
            for index, check in enumerate(content[key]):
                lacking = {**content, key: content[key][:index] + content[key][index + 1 :]}
                by = f" by {check['program']}" if "program" in check else ""
                (fault,) = faults(lacking)
                wanted = f"the {check['form']} form was not compared with PyTorch in {key}{by}"
                assert fault.startswith(wanted.removesuffix("graph")), fault
    assert "needs a C++ compiler" in faults({**record("torch"), "float32": record("torch")["float32"][::2]})[0]
    twice = {**record(), "float64": record()["float64"][:1] * 2}
    assert faults(twice) == [
        "the train form was not compared with PyTorch in float64",
        "the inference form in float64 is in verification.json 2 times",
    ]
    first = {"inference": CONFIGS["inference"]}
    assert "the train form in float64 failed its comparison with PyTorch: the folder has no train form" in faults(
        record(), first
    )


WRONG_ROUNDING = {
    "no mean": ({"rms": None}, "no number for rms"),
    "no length": ({"length_error": None}, "no number for length_error"),
    "nothing": (
        dict.fromkeys(ERRORS),
        "no number for rms and maximum and torch_rms and torch_maximum and length_error",
    ),
    "mean": ({"rms": 2e-4, "rms_ratio": 2.0}, "the error is too large"),
    "largest": ({"maximum": 1e-3, "max_ratio": 2.5}, "the error is too large"),
    "length": ({"length_error": 1e-3}, "the error is too large"),
    "top1": ({"top1_differences": 1}, "the error is too large"),
    "PyTorch of 0": ({"rms": 0.0, "torch_rms": 0.0}, "PyTorch's own error is 0, which it never is"),
    "PyTorch's largest of 0": ({"maximum": 0.0, "torch_maximum": 0.0}, "PyTorch's own error is 0, which it never is"),
    "any error": (
        {"torch_maximum": 1e6, "max_ratio": 5e-10},
        "PyTorch's own error of 1e+06 is too large to compare with",
    ),
    "mean above": (
        {"rms": 1.2e-4, "rms_ratio": 1.2, "maximum": 1.1e-4, "max_ratio": 0.275},
        "its mean errors are larger than its largest",
    ),
    "PyTorch's above": ({"torch_rms": 5e-4, "rms_ratio": 0.2}, "its mean errors are larger than its largest"),
    "ratio": ({"rms_ratio": 0.5}, "its ratios are not those of its errors"),
    "other ratio": ({"max_ratio": 1.0}, "its ratios are not those of its errors"),
    "no ratio": ({"rms_ratio": None}, "its ratios are not those of its errors"),
}
WRONG_EXACT = {
    "image": ({"image": 1e-8}, "the difference is too large"),
    "text": ({"text": 1e-8}, "the difference is too large"),
    "scale": ({"logit_scale": 1e-8}, "the difference is too large"),
    "bias": ({"logit_bias": 1e-8}, "the difference is too large"),
    "null": ({"image": None}, "no number for image"),
    "all null": ({"image": None, "text": None, "logit_scale": None}, "no number for image and text and logit_scale"),
}


@pytest.mark.parametrize(
    ("key", "index", "wrong", "words"),
    [
        *(pytest.param("float32", 3, *case, id=name) for name, case in WRONG_ROUNDING.items()),
        *(pytest.param("float64", 1, *case, id=f"exact {name}") for name, case in WRONG_EXACT.items()),
    ],
)
def test_figures_are_judged_anew(key: str, index: int, wrong: dict[str, Any], words: str) -> None:
    content = record()
    content[key][index] |= wrong
    name = "the train form in float64" if key == "float64" else "the train form in float32 by predict"
    failed = f"{name} failed its comparison with PyTorch: {words}"
    assert faults(content) == [failed, "verification.json says that the verification passed, and it did not"]
    content[key][index]["passed"] = content["passed"] = False
    assert faults(content) == [failed], "what the record says of it does not matter"


def test_a_folder_that_was_not_verified() -> None:
    assert faults({**record(), "why": "not verified\x1b"}) == ["it was not verified\\x1b"]


def test_a_record_that_says_failed_over_good_figures() -> None:
    again = "verify the folder again"
    assert faults({**record(), "passed": False}) == [
        f"verification.json says that the verification did not pass, where every check did: {again}"
    ]
    content = record()
    content["float64"][0]["passed"] = False
    said = "is said to have failed its comparison with PyTorch, and its figures pass"
    assert faults(content) == [f"the inference form in float64 {said}: {again}"]


def test_figures_of_what_a_model_has() -> None:
    """A tower or a bias that is not there has no figures; one that is there needs them."""
    content = record()
    for check in content["float64"]:
        check |= {"image": None, "logit_scale": None}
    assert "no number for image and logit_scale" in faults(content)[0]
    assert faults(content, {form: {"image_encoder": None, "text_encoder": {}} for form in CONFIGS}) == []
    biased = {form: {**config, "logit_bias": True} for form, config in CONFIGS.items()}
    assert "no number for logit_bias" in faults(record(), biased)[0]


@pytest.mark.parametrize(
    "remove",
    [
        *((key,) for key in ("passed", "variant", "backend", "inputs", "float64", "float32", "sample", "files_sha256")),
        *(("float32", 2, key) for key in ROUNDING),
        *(("float64", 0, key) for key in ("form", "passed")),
        *(("sample", key) for key in ("images", "texts", "logits")),
    ],
    ids=str,
)
def test_a_record_of_an_older_version(remove: tuple[Any, ...]) -> None:
    content = part = deepcopy(record())
    for key in remove[:-1]:
        part = part[key]
    del part[remove[-1]]
    name = ".".join(str(key) for key in remove if not isinstance(key, int))
    assert faults(content) == [
        f"its verification.json does not say {name}, as an older version's does not: verify the folder again"
    ]


def test_numbers_that_are_none(publishable: Path) -> None:
    for bad in ("-1e-5", "NaN", "Infinity", "1e999", '"1e-5"', "true"):
        content = json.dumps(record() | {"float32": [{**ROUNDING, "rms": "X"}]}).replace('"X"', bad)
        (publishable / VERIFICATION).write_text(content)
        with pytest.raises(mk.MobileClipError, match=r"verification\.json"):
            find_problems(publishable)


# Variant, towers, conventions, preprocessing

IMAGE, TEXT = (("config", f"{tower}_encoder", "config") for tower in ("image", "text"))
DISAGREEMENTS: dict[str, tuple[str, tuple[Any, ...], Any, str]] = {
    "verified variant": (VERIFICATION, ("variant",), "mobileclip2_s2", f"mobileclip2_s2, where it should be {VARIANT}"),
    "converted variant": (CONVERSION, ("variant",), "mobileclip_s9", "the variant mobileclip_s9, which there is not"),
    "spelling": (CONVERSION, ("variant",), "MobileCLIP2-S0", "the variant MobileCLIP2-S0, which there is not"),
    "config's variant": ("config.json", ("config", "variant"), None, f"variant: nothing, where it should be {VARIANT}"),
    "image tower": ("config.json", (*IMAGE, "backbone"), "small_vit", "backbone: small_vit, where"),
    "text tower": ("train/config.json", (*TEXT, "backbone"), "small_transformer", "backbone: small_transformer"),
    "image size": ("config.json", (*IMAGE, "image_size"), 128, "image_size: 128, where it should be 64"),
    "position size": ("config.json", (*IMAGE, "position_size"), 128, "position_size: 128, where it should be nothing"),
    "embed_dim": ("config.json", (*IMAGE, "embed_dim"), 32, "image_encoder.embed_dim: 32, where it should be 16"),
    "text embed_dim": ("config.json", (*TEXT, "embed_dim"), 32, "text_encoder.embed_dim: 32"),
    "epsilon": ("train/config.json", (*IMAGE, "norm_epsilon"), 1e-6, "norm_epsilon: 1e-06, where it should be 1e-05"),
    "padding": ("config.json", (*IMAGE, "stem_padding"), 1, "stem_padding: 1, where it should be 0"),
    "form of one tower": ("config.json", (*TEXT, "form"), "train", "form: train, where it should be inference"),
    "bias": ("config.json", ("config", "logit_bias"), True, "logit_bias: True, where it should be False"),
    "converted bias": (CONVERSION, ("source", "logit_bias"), True, "logit_bias: False, where it should be True"),
    "dtype": (CONVERSION, ("dtype",), "float16", "dtype: float32, where it should be float16"),
    "dtype of the model": (
        "config.json",
        ("config", "dtype"),
        "float16",
        "says dtype: float16, where it should be float32",
    ),
    "dtype of a tower": (
        "config.json",
        (*IMAGE, "dtype"),
        "float16",
        "image_encoder.dtype: float16, where it should be",
    ),
    "one tower": (CONVERSION, ("towers",), "text", "image tower: there, where it should be none"),
    "lost tower": ("config.json", ("config", "image_encoder"), None, "image tower: none, where it should be there"),
    "class": ("config.json", ("config", "image_encoder", "registered_name"), "x>Y", "image_encoder: x>Y, where"),
    "forms": (CONVERSION, ("weights_sha256",), {}, "weights_sha256: , where it should be inference and train"),
    "mean": (
        "preprocessor_config.json",
        ("image_mean",),
        [0, 0, 0],
        f"mean: (0.0, 0.0, 0.0), where it should be {MEAN}",
    ),
    "std": ("preprocessor_config.json", ("image_std",), [1, 1, 2], "std: (1.0, 1.0, 2.0), where"),
    "filter": ("preprocessor_config.json", ("resample",), 3, "interpolation: bicubic, where it should be bilinear"),
    "crop": ("preprocessor_config.json", ("crop_size", "height"), 32, "cannot be followed"),
    "converted size": (CONVERSION, ("source", "image_size"), 128, "image_size: 64, where it should be 128"),
}


def disagreements(folder: Path, missing: tuple[str, ...] = TOKENIZER_FILES) -> list[str]:
    """Without the tokenizer, which takes long to compare."""
    return find_disagreements(folder, read_record(folder, CONVERSION), read_record(folder, VERIFICATION), [*missing])


def test_each_part_speaks_of_the_same_model(publishable: Path) -> None:
    assert disagreements(publishable) == []
    for name, (file, keys, value, words) in DISAGREEMENTS.items():
        before = (publishable / file).read_bytes()
        change(publishable / file, *keys, to=value)
        found = disagreements(publishable)
        assert found and all(file.split("/")[-1] in each or file == CONVERSION for each in found), (name, found)
        assert any(words in each for each in found), (name, found)
        (publishable / file).write_bytes(before)
    change(publishable / "tokenizer_config.json", "model_max_length", to=64)
    assert disagreements(publishable, ()) == ["tokenizer_config.json says model_max_length: 64, where it should be 77"]
    (publishable / "tokenizer.json").write_text("{}")
    (found,) = disagreements(publishable, ())
    assert "tokenizer.json" in found


def test_the_convention_is_that_of_the_conversion(publishable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/16 is computed in two ways, with the same weights."""
    from mobileclip_keras.converters.hub.agreement import expected

    variant, conversion = mk.keras_models.registry.get_variant("b"), load(publishable / CONVERSION)
    for like, epsilon, padding in (("training", 1e-5, 1), ("open_clip", 1e-6, 0)):
        found = expected(variant, conversion | {"computes_like": like}, "inference")["image_encoder"]
        assert (found["norm_epsilon"], found["stem_padding"]) == (epsilon, padding)
    other = expected(mk.keras_models.registry.get_variant("s2"), conversion | {"computes_like": "open_clip"}, "train")
    assert other["image_encoder"]["norm_epsilon"] == 1e-5


# The folder is run


def differences(folder: Path, *forms: str) -> list[str]:
    conversion, verification = read_record(folder, CONVERSION), read_record(folder, VERIFICATION)
    return find_differences(folder, conversion, verification, forms)


def test_a_forged_record_needs_the_right_weights(publishable: Path) -> None:
    other = small_model(variant=VARIANT, form="inference")
    kernel = other.image_encoder.projection.kernel
    kernel.assign(kernel * 1.01 + 0.001)
    save_model(other, publishable)
    forge_hashes(publishable)
    (problem,) = find_problems(publishable)
    assert problem.startswith(
        "the inference form does not compute what PyTorch computed when it was verified: a logit differs by "
    )
    assert problem.endswith("and 0.0002 is allowed")


def test_weights_that_cannot_be_loaded(publishable: Path) -> None:
    (publishable / "train" / "model.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    forge_hashes(publishable)
    (problem,) = find_problems(publishable)
    assert "train cannot be loaded" in problem


FORGED: dict[str, tuple[tuple[Any, ...], Callable[[Any], Any], str]] = {
    "a logit": (("sample", "logits", 3, 0), lambda x: x + 0.01, "a logit differs by 0.01, and 0.0002 is allowed"),
    "a row too few": (("sample", "logits"), lambda x: x[:3], "no numbers, or other in number than the recorded"),
    "no logits": (("sample", "logits"), lambda x: [], "no table"),
    "rows of different lengths": (("sample", "logits", 0), lambda x: x[:1], "no table"),
    "other inputs": (("inputs", "images", 0), lambda x: "mine", "not about the inputs of this version (inputs)"),
    "no texts": (("inputs", "texts"), lambda x: [], "not about the inputs of this version (inputs)"),
    "another sample": (("sample", "texts", 1), lambda x: "mine", "not about the inputs of this version (sample)"),
}


@pytest.mark.parametrize("what", FORGED)
def test_recorded_logits_that_are_others(publishable: Path, what: str) -> None:
    keys, forge, words = FORGED[what]
    value = load(publishable / VERIFICATION)
    for key in keys:
        value = value[key]
    change(publishable / VERIFICATION, *keys, to=forge(value))
    (difference,) = differences(publishable, "inference")
    assert words in difference


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_that_were_rounded_after_the_verification(publishable: Path, dtype: str) -> None:
    model = mk.MobileClipModel.from_pretrained(publishable)
    save_model(copy_model(model, dtype), publishable)
    assert "does not compute" in differences(publishable, "inference")[0]
    change(publishable / CONVERSION, "dtype", to=dtype)
    assert differences(publishable, "inference") == []


def test_a_text_tower_alone_has_fewer_files(publishable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(publishable / "train")
    save_model(mk.MobileClipModel.from_pretrained(publishable, towers="text"), publishable)
    (publishable / "preprocessor_config.json").unlink()
    change(publishable / CONVERSION, "towers", to="text")
    change(publishable / CONVERSION, "weights_sha256", to=weight_hashes(publishable))
    record_sample(publishable)
    exact = [{"form": "inference", **EXACT, "image": None, "logit_scale": None}]
    verified = load(publishable / VERIFICATION)
    pass_verification(publishable, float64=exact, inputs=verified["inputs"], sample=verified["sample"])
    assert find_problems(publishable) == []
    change(publishable / VERIFICATION, "sample", "logits", 0, 63, to=0)
    assert "does not compute" in find_problems(publishable)[0]


def test_a_form_that_was_not_compared_in_float32_is_named_and_not_run(publishable: Path) -> None:
    """By how far PyTorch's own float32 was off, it is judged what its logits may differ by."""
    change(publishable / VERIFICATION, "float32", to=[])
    problems = find_problems(publishable)
    assert any("was not compared with PyTorch in float32" in problem for problem in problems)
    assert not any("does not compute" in problem for problem in problems)


def test_what_the_folder_is_run_for_comes_last(publishable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not agree cannot be run in a way that tells anything."""
    monkeypatch.setattr(publishing, "find_differences", lambda *_: pytest.fail("it was run"))
    change(publishable / "preprocessor_config.json", "resample", to=3)
    assert len(find_problems(publishable)) == 2
