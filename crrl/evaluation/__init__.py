"""What a trained encoder is worth: protocols on frozen features, fine-tuning, and the floors beside them."""
