"""What pre-training is worth: effective data transferred, and its law."""
