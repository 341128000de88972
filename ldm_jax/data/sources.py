"""From what a config names to a source of pictures."""

from ldm_jax.data import array_record_files, folder, tfds_builders
from ldm_jax.data.datasets import DATASETS
from ldm_jax.data.datasets.emoji_scenes import EmojiScenes
from ldm_jax.data.records import ImageSource

FORMATS = {
    "folder": folder.open_reader,
    "tfds": tfds_builders.open_reader,
    "array_record": array_record_files.open_reader,
}


def open_source(spec: str, *, split: str = "train") -> ImageSource | EmojiScenes:
    """Open `folder:PATH`, `tfds:NAME[:split]`, `array_record:GLOB` or a vendored set.

    Those are `emoji64[:split]` and `emoji_scenes[:split]`.

    Args:
      spec: the value of `config.data.source`; a split in it goes before `split`.
      split: `train`, `val` or `all`.

    Raises:
      FileNotFoundError, ValueError: one sentence that says what is missing or wrong.
    """
    kind, _, rest = spec.partition(":")
    if kind in FORMATS:
        return ImageSource(FORMATS[kind](spec, rest, split))
    if kind in DATASETS:
        return DATASETS[kind](spec, rest or split)
    forms = ["folder:PATH", "tfds:NAME[:split]", "array_record:GLOB", *DATASETS]
    raise ValueError(
        f"data.source is {spec!r}, which names no data: give one of {', '.join(forms)}"
    )
