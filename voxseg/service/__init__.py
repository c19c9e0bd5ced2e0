"""voxseg left running: a watched folder, and a small service in the browser."""
