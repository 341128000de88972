"""Linen blocks and functions shared by autoencoders, backbones and conditioners."""
