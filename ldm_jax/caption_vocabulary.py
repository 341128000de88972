"""The vocabulary that a text model makes of its own captions when its training starts."""

# A ConfigDict's fields are dynamic.
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false

from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax.data import wordpiece


def prepare(config: ConfigDict, source: Any, workdir: Path) -> None:
    """Make the vocabulary of `config.tokenizer`, if it is of the captions and not there.

    It stands in `workdir` from the start of the training on, so that it moves along and
    every later start, sampling and conversion reads the same. The first process writes
    it, the others wait.

    Args:
      source: of the training pictures, which have captions.

    Raises:
      ValueError: one sentence if no caption has a word, or the vocabulary would be too
        small for an alphabet.
    """
    section = config.get("tokenizer") or {"name": "none"}
    if section["name"] != wordpiece.NAME:
        return
    is_there = config_lib.resolve(section["path"], workdir).is_dir()
    if jax.process_index() == 0 and not is_there:
        captions = (source.annotation(i)["caption"] for i in range(len(source)))
        folder = workdir / section["path"]
        wordpiece.train_wordpiece(captions, section["vocab_size"], folder)
    multihost_utils.sync_global_devices("the vocabulary is written")
