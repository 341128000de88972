"""What pyproject.toml cannot say: a package that is not in a folder of its name.

ldm_jax.checkout holds the commands, configs/ and assets/, which lie beside the package in
a checkout; ldm_jax/shipped.py finds them in either place.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["ldm_jax", "ldm_jax.*"]), "ldm_jax.checkout"])
