"""How good segmentations are, where they fail, and what a turned or disturbed scan changes."""
