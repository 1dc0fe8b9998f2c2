"""What is compared: fixed inputs, weights that are drawn, and the logits that a record keeps."""
