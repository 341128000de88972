"""The smallest models that still have every part: for tests, seconds on a CPU."""
