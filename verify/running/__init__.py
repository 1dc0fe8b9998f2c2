"""Running what is compared: Keras by every program that people run, and PyTorch beside it."""
