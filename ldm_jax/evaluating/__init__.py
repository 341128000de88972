"""What `evaluate.py` and a training run call: models and pictures to the metrics of `evaluation`."""
