"""How time and memory grow, with the exponent that is expected beside the one measured.

python -m benchmarks.growth --axis=batch | side | steps | devices

The demo's denoiser on a CPU: a train step by batch size and by the latent's side, DDIM by
the number of steps, and by (fake) devices the memory of one of them for one global batch.
Exponents are slopes of log y over log x from the second point on.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

NUM_DEVICES = 8
SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Point:
    """One size; a figure that was not taken is nan."""

    x: int
    seconds: float = math.nan
    mebibytes: float = math.nan


# Axis: sizes, then what seconds and memory should grow with.
AXES = {
    "batch": ((4, 8, 16, 32), "1", "up to 1"),
    "side": ((8, 16, 32), "2 (convolutions) to 4 (attention)", "2"),
    "steps": ((10, 20, 40, 80), "1", "0"),
    "devices": ((1, 2, 4, 8), "", "-1 but for the parameters"),
}


def main() -> None:
    """Measure one axis and print its table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--axis", choices=tuple(AXES), default="batch")
    axis = parser.parse_args().axis
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported
    if axis == "devices":
        flag = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    sizes, of_seconds, of_memory = AXES[axis]
    measure = {
        "batch": train_step_by_batch,
        "side": train_step_by_side,
        "steps": sampling_by_steps,
        "devices": memory_by_devices,
    }[axis]
    points = [measure(x) for x in sizes]
    print(describe(axis, points, of_seconds, of_memory))


def train_step_by_batch(batch_size: int) -> Point:
    """Seconds and memory of one step at 16x16 latents."""
    return _timed(batch_size, _train_step(batch_size, side=16))


def train_step_by_side(side: int) -> Point:
    """Seconds and memory of one step of 4 latents."""
    return _timed(side, _train_step(4, side))


def sampling_by_steps(num_steps: int) -> Point:
    """Seconds and memory of 4 pictures by DDIM, without guidance."""
    from benchmarks import sampling

    run = dataclasses.replace(sampling.EMOJI, guidance_scale=1.0)
    return _timed(num_steps, sampling.ddim(_setting(), run, 4, num_steps))


def memory_by_devices(num_devices: int) -> Point:
    """Memory of one of so many devices, 64 pictures over all of them, parameters whole."""
    import jax

    from configs import emoji_f4
    from ldm_jax.compiling.programs import train_program
    from ldm_jax.training import sharding
    from ldm_jax.training.compilation import peak_bytes

    config: Any = emoji_f4.get_config()
    config.train.batch_size = 64
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    traced = train_program(config, mesh, latents="cached").traced
    used = peak_bytes(traced.lower().compile())
    return Point(num_devices, mebibytes=math.nan if used is None else used / 2**20)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of log y over log x by least squares; nan without figures."""
    if any(math.isnan(y) for y in ys):
        return math.nan
    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    above = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return above / sum((x - mean_x) ** 2 for x, _ in logs)


def describe(
    axis: str, points: Sequence[Point], of_seconds: str, of_memory: str
) -> str:
    """A Markdown table of the points, the exponents in the last rows."""
    later = points[1:]
    xs = [point.x for point in later]
    seconds = exponent(xs, [point.seconds for point in later])
    memory = exponent(xs, [point.mebibytes for point in later])
    rows = [(str(p.x), _figure(p.seconds), _figure(p.mebibytes)) for p in points]
    rows.append(("exponent", _figure(seconds), _figure(memory)))
    rows.append(("expected", of_seconds, of_memory))
    head = [f"| {axis} | seconds | MiB |", "|---|---|---|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def _train_step(batch_size: int, side: int) -> Any:
    from benchmarks import unet
    from benchmarks.networks import DENOISERS

    net = dataclasses.replace(DENOISERS["emoji_f4"], side=side)
    return unet.step_of(net, _setting(), batch_size)


def _setting() -> Any:
    from benchmarks.rows import Setting

    return Setting(references=())


def _timed(x: int, sides: Any) -> Point:
    from benchmarks.timing import alternate, medians

    taken = medians(alternate({"ours": sides.ours}, seconds=SECONDS))
    memory = math.nan if sides.peak_bytes is None else sides.peak_bytes / 2**20
    return Point(x, taken["ours"], memory)


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


if __name__ == "__main__":
    main()
