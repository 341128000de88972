"""One model, drawing step by step for whoever is first; the others wait."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from jaxtyping import UInt8

import ldm_jax
from ldm_jax import stepwise, trees
from ldm_jax.app import asking
from ldm_jax.model import Model
from ldm_jax.sampling_inputs import accepted
from ldm_jax.stepwise import Progress

_DEMO = "the demo model"


class StoppedError(Exception):
    """Somebody wants no more of it."""


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """What its worker and its watcher share."""

    events: SimpleQueue = dataclasses.field(default_factory=SimpleQueue)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class Studio:
    """Draws with one model at a time, and takes another when told."""

    def __init__(self, model: Model, name: str = _DEMO):
        """Raises:
        ValueError: the page has no input for what the model is told.
        """
        self._drawing = _Drawing()
        self._lock = threading.Lock()  # held by the one that draws
        self._take(model, name)

    @classmethod
    def open(cls, checkpoint: str | None) -> "Studio":
        """A studio of a workdir, or of the model that comes along; raises as `load`."""
        return cls(*_loaded(checkpoint))

    def load(self, checkpoint: str | None) -> None:
        """Take another model: a workdir, or None for the one that comes along.

        Raises:
          FileNotFoundError, ValueError: one sentence; the model before is kept.
        """
        self._take(*_loaded(checkpoint))

    def describe(self) -> str:
        """One line: which model, of what size, and what it is told."""
        model, side = self.model, self.model.config.data.image_size
        told = ", ".join(name.replace("_", " ") for name in accepted(model))
        size = trees.num_elements(model.params["backbone"])
        return (
            f"{self.name}, {size / 1e6:.1f} million parameters, step {model.step:,}: "
            f"{side}x{side} pixels, told {told or 'nothing'}"
        )

    def draw(
        self, settings: Mapping[str, Any]
    ) -> Iterator[Progress | UInt8[np.ndarray, "n H W 3"]]:
        """What is believed after each step, and at the end the pictures.

        Args:
          settings: of `Model.sample`.

        Raises:
          StoppedError: after `stop`.
          ValueError: as `Model.sample`.
        """
        drawing = _Drawing()
        arguments = (self.model, settings, drawing)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()
        try:
            while True:
                event = drawing.events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if not isinstance(event, Progress):
                    return
        finally:  # also when nobody asks for the rest
            drawing.stop.set()

    def stop(self) -> None:
        """End what is being drawn, at its next step."""
        self._drawing.stop.set()

    def _take(self, model: Model, name: str) -> None:
        asking.check_page(model)
        make_program = partial(stepwise.make_program, report=self._report)
        self.model = dataclasses.replace(model, make_program=make_program)
        self.name = name

    def _report(self, progress: Progress) -> None:
        if self._drawing.stop.is_set():
            raise StoppedError
        self._drawing.events.put(progress)

    def _work(
        self, model: Model, settings: Mapping[str, Any], drawing: _Drawing
    ) -> None:
        with self._lock:
            self._drawing = drawing
            try:
                drawing.events.put(model.sample(**settings))
            except BaseException as error:  # noqa: BLE001 - raised by `draw`
                drawing.events.put(error)


def _loaded(checkpoint: str | None) -> tuple[Model, str]:
    """A model and what to call it."""
    if not checkpoint:
        return ldm_jax.load(), _DEMO
    return ldm_jax.load(checkpoint), Path(checkpoint).resolve().name
