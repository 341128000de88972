"""What an import says of a file: printed for people, kept as JSON beside the model."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ldm_jax.interop.matching import Infos, Match

# What people call the prefixes of names; names without any of them belong together.
_PARTS = {
    "model.diffusion_model": "denoiser",
    "model_ema": "denoiser, averaged",
    "first_stage_model": "first stage",
    "cond_stage_model": "conditioner",
    "loss": "training loss",
    "encoder": "first stage",
    "decoder": "first stage",
    "quantize": "first stage",
    "quant_conv": "first stage",
    "post_quant_conv": "first stage",
}
_OTHERS = "schedule, counters"


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a file, and what became of it.

    Attributes:
      source: the file.
      format: of the file.
      models: names of the configs that it fits.
      step: optimizer steps done, None if the file does not say.
      has_ema: whether it holds averaged parameters.
      dtypes: number of tensors by dtype.
      sizes: number of elements by part.
      left_out: number of tensors by the reason why no parameter takes them.
      unmatched: names only in the file.
      missing: names only in the model.
      misshapen: names with a shape that is not the model's.
      warnings: sentences.
      details: values worth keeping: state of the average, latent scale.
    """

    source: str
    format: str
    models: tuple[str, ...] = ()
    step: int | None = None
    has_ema: bool = False
    dtypes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """All fields."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def __str__(self) -> str:
        rows = [
            ("file", self.source),
            ("format", self.format),
            ("model", ", ".join(self.models) or "none that is known"),
            ("step", "not said" if self.step is None else f"{self.step:,}"),
            ("dtype", _counted(self.dtypes)),
            ("EMA", "yes" if self.has_ema else "no"),
            *((name, f"{size:,} parameters") for name, size in self.sizes.items()),
            *((name, _detail(value)) for name, value in self.details.items()),
            ("left out", _counted(self.left_out) or "nothing"),
            ("only in file", _listed(self.unmatched)),
            ("only in model", _listed(self.missing)),
            ("other shape", _listed(self.misshapen)),
            *(("warning", sentence) for sentence in self.warnings),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def describe(infos: Infos) -> dict[str, Any]:
    """The fields of a `Report` that follow from names, shapes and dtypes alone."""
    sizes: Counter[str] = Counter()
    for name, (_, shape) in infos.items():
        part = _part_of(name) if shape or name.startswith("loss.") else _OTHERS
        sizes[part] += math.prod(shape)
    dtypes = Counter(dtype.name for dtype, _ in infos.values())
    has_ema = any(
        name.startswith("model_ema.") and shape for name, (_, shape) in infos.items()
    )
    return {
        "dtypes": dict(dtypes.most_common()),
        "sizes": dict(sorted(sizes.items())),
        "has_ema": has_ema,
    }


def num_elements(infos: Infos) -> int:
    """Number of scalars in all tensors."""
    return sum(math.prod(shape) for _, shape in infos.values())


def num_bytes(infos: Infos) -> int:
    """Size of all tensors."""
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in infos.values())


def compare(found: Match) -> dict[str, Any]:
    """The fields that say what file and model have not in common."""
    return {
        "left_out": dict(Counter(found.known.values())),
        "unmatched": found.unmatched,
        "missing": found.missing,
        "misshapen": tuple(name for name, _, _ in found.misshapen),
    }


def _part_of(name: str) -> str:
    for prefix, part in _PARTS.items():
        if name.startswith(f"{prefix}."):
            return part
    return _OTHERS


def _counted(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        (name, _), *_ = counts.items()
        return name
    return ", ".join(f"{number} x {name}" for name, number in counts.items())


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)}: {', '.join(names[:5])}{more}"


def _detail(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
