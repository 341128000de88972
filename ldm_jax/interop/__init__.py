"""Published checkpoints in and out: rename rules as data, no torch at run time."""
