"""The tasks: what each is trained on, compared with, told by sample.py and measured by."""

from collections.abc import Callable
from dataclasses import dataclass

from tools.tasks import commands, statistics
from tools.tasks.held_out import HeldOut, Pixels
from tools.tasks.statistics import Categories

Statistic = Callable[[Pixels, HeldOut], float]


@dataclass(frozen=True)
class Task:
    """One config of configs/emoji.

    Attributes:
      source: of the pictures; the ablation is the same denoiser trained on them for as
        long without a condition.
      margin: what the condition must take off the ablation's held-out loss, as a share.
      statistics: by name, how far pictures follow their condition.
      flags: writes a held-out condition into a folder; the flags of sample.py for it.
      is_guided: whether the condition can be left out, so that guidance applies.
      is_cached: whether the run keeps latents of emoji64, which all such runs share.
      baseline: pictures made without a model, and what they are called.
      ablation: argument of configs/emoji/unconditional.py, if not the source: for a task
        that trains longer, or has another denoiser, than the rest.
    """

    source: str
    margin: float
    statistics: dict[str, Callable[[Categories], Statistic]]
    flags: commands.Flags
    is_guided: bool = False
    is_cached: bool = False
    baseline: tuple[str, Callable[[HeldOut], Pixels]] | None = None
    ablation: str = ""

    @property
    def unconditional(self) -> str:
        """The argument of configs/emoji/unconditional.py for what it is compared with."""
        return self.ablation or self.source


def _plain(statistic: Statistic) -> Callable[[Categories], Statistic]:
    return lambda categories: statistic


_ACCURACY = {"category as asked": lambda categories: categories.accuracy}

TASKS = {
    "class_label": Task(
        "emoji64",
        0.002,
        _ACCURACY,
        commands.class_label,
        is_guided=True,
        is_cached=True,
    ),
    "text": Task(
        "emoji64",
        0.01,
        _ACCURACY,
        commands.text,
        is_guided=True,
        is_cached=True,
        ablation="text",
    ),
    "layout": Task(
        "emoji_scenes",
        0.005,
        {"ink where boxes are": _plain(statistics.ink_where_boxes_are)},
        commands.layout,
        is_guided=True,
        ablation="layout",
    ),
    "semantic": Task(
        "emoji_scenes",
        0.05,
        {"IoU of what is drawn": _plain(statistics.drawn_overlap)},
        commands.semantic,
    ),
    "super_resolution": Task(
        "emoji64",
        0.05,
        {
            "PSNR, made small, to the condition": _plain(statistics.low_res_psnr),
            "PSNR to the held-out picture": _plain(statistics.true_psnr),
        },
        commands.super_resolution,
        baseline=("bicubic", statistics.enlarged),
    ),
    "inpainting": Task(
        "emoji64",
        0.05,
        {"PSNR in the hole": _plain(statistics.hole_psnr)},
        commands.inpainting,
        baseline=("mean colour", statistics.mean_filled),
    ),
    "retrieval": Task(
        "emoji64",
        0.005,
        {"category of its neighbours": lambda categories: categories.agreement},
        commands.retrieval,
        is_guided=True,
        is_cached=True,
    ),
}
