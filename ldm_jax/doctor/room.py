"""The largest batch that fits a device, and the change that would help most.

From the shapes alone, as `train.py --dry_run`: what is kept for the gradient before XLA
fuses it, proportional to the batch. Compiling tells the truth, and takes its time
(tools/compile_for_topology.py).
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from ldm_jax import config as config_lib
from ldm_jax import plan
from ldm_jax.compiling.fitting import changed
from ldm_jax.doctor.machine import device_memory
from ldm_jax.doctor.sections import Row, size

# XLA's own buffers, fragments, and what else runs there.
USABLE_SHARE = 0.9

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Room:
    """Of one device, bytes: what is there without pictures, and for each of them."""

    fixed: int
    each: int

    def pictures(self, memory: float) -> int:
        """How many at a time fit."""
        return max(0, int((memory * USABLE_SHARE - self.fixed) // max(self.each, 1)))


def needed(config: ConfigDict) -> Room:
    """What a step of the config needs.

    Raises:
      ValueError: one sentence if the config cannot be built on these devices.
    """
    parts = plan.memory(config)
    at_a_time = config.train.batch_size / config.train.grad_accumulation
    each = parts[plan.ACTIVATIONS] / (at_a_time / jax.device_count())
    return Room(sum(parts.values()) - parts[plan.ACTIVATIONS], round(each))


def proposals(config: ConfigDict) -> Iterator[Changes]:
    """Changes that leave the model as it is and may make room."""
    network = "backbone" if config.task == "denoising" else "autoencoder"
    if config[network].get("remat", "none") == "none":
        yield {f"{network}.remat": "blocks"}
    if config.train.precision == "float32":
        yield {"train.precision": "bfloat16"}
    if config.mesh.fsdp == 1 and jax.device_count() > 1:
        yield {"mesh.fsdp": jax.device_count(), "mesh.data": 1}
    if config.task == "denoising" and not config.latent.cache:
        yield {"latent.cache": True}


def describe(config: ConfigDict, device_gib: float | None) -> Iterator[Row]:
    """Room on a device, the largest batch, and what it would be after each change."""
    config_lib.check(config)
    memory = device_memory() if device_gib is None else device_gib * 2**30
    if memory is None:
        raise ValueError("the device does not tell its memory: give --device_gib")
    room, devices = needed(config), jax.device_count()
    most = room.pictures(memory)
    yield "memory of a device", f"{size(memory)}, of which {USABLE_SHARE:.0%} count"
    yield "state and networks", size(room.fixed)
    yield "each picture", size(room.each)
    yield "largest batch", _batch(most, devices)
    yield "the config asks for", _asked(config, most, devices)
    found = {_flags(c): _room_of(config, c) for c in proposals(config)}
    gains = {flags: r.pictures(memory) for flags, r in found.items() if r is not None}
    helpful = sorted((g, flags) for flags, g in gains.items() if g > most)[::-1]
    for place, (gain, flags) in enumerate(helpful):
        label = "what would help most" if place == 0 else "what would help, too"
        yield label, f"{flags}: {_batch(gain, devices)}"
    if not helpful:
        yield "what would help most", "a smaller image_size or network, or more memory"


def _room_of(config: ConfigDict, changes: Changes) -> Room | None:
    """None where the change does not go with the rest of the config."""
    try:
        other = changed(config, dict(changes))
        config_lib.check(other)
        return needed(other)
    except ValueError:
        return None


def _batch(pictures: int, devices: int) -> str:
    if devices == 1:
        return f"{pictures:,} pictures"
    return f"{pictures:,} pictures on each of {devices} devices, {pictures * devices:,}"


def _asked(config: ConfigDict, most: int, devices: int) -> str:
    batch, parts = config.train.batch_size, config.train.grad_accumulation
    at_a_time = -(-batch // parts // devices)
    asked = f"{batch:,}" + (f" in {parts} parts" if parts > 1 else "")
    if at_a_time <= most:
        return f"{asked}, which fits"
    if most == 0:
        return f"{asked}: not even one fits"
    enough = next(
        n
        for n in range(parts, batch + 1)
        if batch % n == 0 and (-(-batch // n // devices) <= most or n == batch)
    )
    return (
        f"{asked}, which does not fit: --config.train.grad_accumulation={enough} takes "
        "the same steps in parts that do"
    )


def _flags(changes: Changes) -> str:
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())
