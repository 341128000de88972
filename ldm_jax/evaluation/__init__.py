"""Metrics of reconstructions and samples, and the protocol that they belong to."""
