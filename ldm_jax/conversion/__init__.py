"""Published checkpoints to workdirs and back; what `convert.py` calls."""
