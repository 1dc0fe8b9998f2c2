"""Converted folders on the Hugging Face Hub: records, model card, publication."""
