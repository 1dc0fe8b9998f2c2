"""What models are for: zero-shot classification, retrieval, stored features."""
