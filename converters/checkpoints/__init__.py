"""PyTorch checkpoints: opening them and telling what they are."""
