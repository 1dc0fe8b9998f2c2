"""What layers compute: every operation in keras.ops, and what each backend does faster."""
