"""Checkpoints to Keras models, and back."""
