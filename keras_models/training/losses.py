"""What MobileCLIP models are trained to do: tell which image belongs to which text."""

from typing import Any

from keras import ops


def contrastive_loss(image_features: Any, text_features: Any, logit_scale: Any, weights: Any = None) -> Any:
    """CLIP's objective (arXiv 2103.00020, figure 3): the mean of two softmax cross-entropies over a batch of
    pairs, of finding each image's text among the texts, and each text's image among the images.

    Args:
        image_features: (batch, embed_dim), of length 1.
        text_features: (batch, embed_dim), of length 1; row i belongs to image i.
        logit_scale: a scalar, after exp.
        weights: of each pair, (batch,) or (batch, 1); None for 1.

    Returns:
        A scalar, float32 at least; log(batch) where the features tell nothing.
    """
    images, texts = wide(image_features), wide(text_features)
    scale = ops.cast(logit_scale, images.dtype)
    logits = scale * (images @ ops.transpose(texts))
    matching = scale * ops.sum(images * texts, axis=-1)
    losses = (ops.logsumexp(logits, axis=0) + ops.logsumexp(logits, axis=1)) / 2 - matching
    return weighted_mean(losses, weights)


def sigmoid_loss(
    image_features: Any, text_features: Any, logit_scale: Any, logit_bias: Any, weights: Any = None
) -> Any:
    """SigLIP's objective (arXiv 2303.15343, section 3.2): for every image with every text of a batch, whether they
    belong together, summed over the texts and averaged over the images.

    Args:
        image_features: (batch, embed_dim), of length 1.
        text_features: (batch, embed_dim), of length 1; row i belongs to image i.
        logit_scale: a scalar, after exp.
        logit_bias: a scalar that is added to every logit.
        weights: of each image's row, (batch,) or (batch, 1); None for 1.

    Returns:
        A scalar, float32 at least.
    """
    images, texts = wide(image_features), wide(text_features)
    scale, bias = ops.cast(logit_scale, images.dtype), ops.cast(logit_bias, images.dtype)
    logits = scale * (images @ ops.transpose(texts)) + bias
    matching = scale * ops.sum(images * texts, axis=-1) + bias
    # -log sigmoid(-x) = softplus(x); a matching pair has -log sigmoid(x) = softplus(x) - x.
    losses = ops.sum(ops.softplus(logits), axis=1) - matching
    return weighted_mean(losses, weights)


def wide(value: Any) -> Any:
    """A tensor in float32 at least."""
    value = ops.convert_to_tensor(value)
    return ops.cast(value, "float32") if "16" in str(value.dtype) else value


def weighted_mean(losses: Any, weights: Any) -> Any:
    """The mean of the losses of pairs, (batch,), times their weights, (batch,) or (batch, 1); None is for 1.

    keras.ops.mean, like keras.ops.matmul, would turn float64 into float32.
    """
    if weights is not None:
        losses = losses * ops.reshape(ops.cast(weights, losses.dtype), (-1,))
    return ops.sum(losses) / ops.cast(ops.shape(losses)[0], losses.dtype)
