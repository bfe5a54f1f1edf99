"""The evaluation of a trained encoder: protocols on frozen features, fine-tuning, and floors to compare with."""
