"""Which tensor of a PyTorch checkpoint is which Keras variable: tables of rows, and the audit against them."""
