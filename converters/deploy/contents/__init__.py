"""What lies in a bundle beside the towers: descriptions, golden vectors, the tokenizer, the README."""
