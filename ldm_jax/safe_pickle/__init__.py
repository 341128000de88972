"""Pickles of plain data from untrusted files: interpreted, never executed."""

from ldm_jax.safe_pickle.machine import load_numpy_pickle, load_plain, ordered_dict
from ldm_jax.safe_pickle.numpy_globals import NUMPY
from ldm_jax.safe_pickle.parts import (
    INERT,
    BrokenPickleError,
    Builder,
    FindGlobal,
    Inert,
    UnsafePickleError,
)

__all__ = [
    "INERT",
    "NUMPY",
    "BrokenPickleError",
    "Builder",
    "FindGlobal",
    "Inert",
    "UnsafePickleError",
    "load_numpy_pickle",
    "load_plain",
    "ordered_dict",
]
