"""How good a model is on a data set, beside the figures that Apple publishes."""
