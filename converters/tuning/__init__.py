"""Fine-tuning a converted folder on pairs of images and texts, into another converted folder."""
