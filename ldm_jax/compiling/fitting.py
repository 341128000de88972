"""What would fit where a program does not: changes of the config, tried by compiling."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.compiling.report import Report

Changes = dict[str, Any]


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
    """A copy of the config with some fields, named "section.field", replaced."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in changes.items():
            copy.update_from_flattened_dict({name: value})
    return copy


def proposals(config: ConfigDict, report: Report) -> Iterator[Changes]:
    """Changes that lower the peak, the cheapest first; none of them is sure to suffice.

    fsdp divides the state and costs exchanges; remat computes part of the forward pass
    again; then the batch shrinks. Batch sizes come from a model in which all but the
    arguments and one gradient is proportional to the batch.
    """
    is_training = report.program == "train"
    devices, changes = report.num_devices, {}
    if is_training and config.mesh.fsdp == 1 and devices > 1:
        changes["mesh.fsdp"] = devices
        changes["mesh.data"] = 1
        yield dict(changes)
    network = "backbone" if config.task == "denoising" else "autoencoder"
    if is_training and config[network].get("remat") == "none":
        changes[f"{network}.remat"] = "blocks"
        yield dict(changes)
    for rows in _smaller_batches(report):
        yield {**changes, "train.batch_size": rows * devices}


def first_that_fits(
    config: ConfigDict,
    report: Report,
    compile_with: Callable[[ConfigDict], Report],
    *,
    max_tries: int,
) -> tuple[Changes, Report] | None:
    """The first of the proposals that compiles into the memory of the chip.

    Args:
      compile_with: compiles the same program from another config.
      max_tries: compilations at most.
    """
    for tried, changes in enumerate(proposals(config, report)):
        if tried == max_tries:
            return None
        found = compile_with(changed(config, changes))
        if found.fits:
            return changes, found
    return None


def advice(found: tuple[Changes, Report] | None, max_tries: int) -> str:
    """What `first_that_fits` found, as one sentence."""
    if found is None:
        return f"nothing that was tried ({max_tries} compilations at most) fits either"
    changes, report = found
    flags = " ".join(f"--config.{name}={value}" for name, value in changes.items())
    return f"compiled and found to fit: {flags} ({report.peak_bytes / 2**30:.1f} GiB)"


def _smaller_batches(report: Report) -> Iterator[int]:
    """Rows on a device: what the model says fits, then halves of it."""
    rows = report.batch_size // report.num_devices
    roles = ("parameters", "optimizer", "EMA", "rest of the state", "frozen networks")
    fixed = sum(report.memory.get(role, 0) for role in roles)
    if report.program == "train":
        fixed += report.memory.get("parameters", 0)  # the gradient
    each = max(report.peak_bytes - fixed, 1) / rows
    room = (report.hbm_bytes or report.peak_bytes) - fixed
    guess = min(int(room / each), rows - 1) if room > 0 else rows // 2
    while guess >= 1:
        yield guess
        guess //= 2
