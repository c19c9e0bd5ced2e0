"""The brain model: weights, config, label table and model card."""
