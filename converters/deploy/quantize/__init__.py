"""Fewer bits for weights: rounded in the model, layer by layer, then stored by each runtime without a further loss."""
