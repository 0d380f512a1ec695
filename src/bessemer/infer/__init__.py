"""Load a model once; score and generate for evaluation and serving alike."""
