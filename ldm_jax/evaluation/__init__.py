"""Metrics of reconstructions and samples."""
