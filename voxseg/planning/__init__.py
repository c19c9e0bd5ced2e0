"""A config for a new data set: `voxseg plan`."""
