"""The variables of a model by name."""

from typing import Any

import keras


def variables_by_name(model: Any) -> dict[str, keras.Variable]:
    """Every variable of a MobileClipModel by its path below the model, in the order of the forward pass.

    Names are those of the weight tables: "logit_scale", "image_encoder/backbone/stem_0/...",
    "text_encoder/projection/kernel". A model of one tower has no logits, and their scale and bias are left out.
    """
    both = model.image_encoder is not None and model.text_encoder is not None
    named = logit_variables(model) if both else {}
    for tower in ("image_encoder", "text_encoder"):
        encoder = getattr(model, tower)
        if encoder is not None:
            # The user may have named a tower otherwise; the tables have these two names.
            named |= {f"{tower}/{variable.path.split('/', 1)[1]}": variable for variable in encoder.weights}
    return named


def logit_variables(model: Any) -> dict[str, keras.Variable]:
    """The logits' scale and, where there is one, their bias."""
    bias = {} if model.logit_bias is None else {"logit_bias": model.logit_bias}
    return {"logit_scale": model.logit_scale, **bias}
