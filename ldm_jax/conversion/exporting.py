"""Workdirs to files that other programs read; tensors stream."""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax import build_conditioner
from ldm_jax import config as config_lib
from ldm_jax.conversion import describing, imported_workdir
from ldm_jax.interop import compvis, compvis_conditioner, diffusers, matching
from ldm_jax.interop.archive import write_safetensors
from ldm_jax.interop.compvis_text import join_in_proj
from ldm_jax.lazy_array import LazyArray, read_array
from ldm_jax.training import checkpoints, streaming

PyTree = Any

Format = Literal["compvis", "diffusers", "safetensors"]
DTYPES = ("float32", "float16", "bfloat16")


def export_checkpoint(
    workdir: str | Path,
    format: Format,
    output: str | Path,
    *,
    dtype: str = "float32",
    step: int | None = None,
) -> Path:
    """Write a run's model for other programs.

    | format      | what is written                                                      |
    |-------------|----------------------------------------------------------------------|
    | compvis     | one .safetensors with all that the original's .ckpt holds: raw and averaged parameters, first stage, noise schedule |
    | safetensors | one .safetensors in the same names, for inference: the averaged parameters in the place of the raw ones |
    | diffusers   | a folder for `from_pretrained`, with the averaged parameters          |

    Args:
      workdir: of a run of train.py, or of an imported model.
      format: see the table.
      output: a new file (".safetensors" is added to a name without a suffix) or, for
        diffusers, a new folder; complete, or not there, when this returns.
      dtype: of the parameters; "float16" and "bfloat16" halve the size and round.
      step: of the checkpoint; None for the newest.

    Returns:
      What was written.

    Raises:
      FileNotFoundError, ValueError: one sentence: no such run, `output` is taken, or the
        format has no place for this model.
    """
    _check_choices(format, dtype)
    workdir, output = Path(workdir), Path(output)
    config = config_lib.load(workdir / "config.json")
    step = checkpoints.resolve_step(checkpoints.checkpoint_dir(workdir), step)
    items = _items(config, workdir, step)
    if format != "compvis":
        items = _averaged(items)
    cast = functools.partial(_cast, dtype=np.dtype(jnp.dtype(dtype)))
    for name in ("params", "ema", "frozen"):
        items[name] = jax.tree.map(cast, items[name])
    if format == "diffusers":
        _write_diffusers(output, config, items, workdir)
        return output
    output = output if output.suffix else output.with_suffix(".safetensors")
    if output.exists():
        raise ValueError(f"{output} is there already: give another --output")
    state = _compvis_state(config, items, workdir, step)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(output, state, {"global_step": str(step)})
    return output


def _check_choices(format: str, dtype: str) -> None:
    for name, value, choices in (
        ("format", format, get_args(Format)),
        ("dtype", dtype, DTYPES),
    ):
        if value not in choices:
            raise ValueError(
                f"--{name} is {value!r}: choose one of {', '.join(choices)}"
            )


def _compvis_state(
    config: ConfigDict, items: Mapping[str, Any], workdir: Path, step: int
) -> dict[str, Any]:
    """Everything in the file by name, lazy or in memory."""
    description = describing.describe(config)
    state: dict[str, Any] = dict(matching.exported(description.parts, items))
    if description.ldm is None:
        return state
    state |= compvis.schedule_buffers(description.ldm.schedule)
    if config.latent.scale_by_std:
        scale = read_array(items["collections"]["latent_scale"])
        state["scale_factor"] = np.float32(scale)
    if items.get("ema"):
        state |= _ema_scalars(config, workdir, step)
    state |= compvis_conditioner.unused_tensors(description.conditioner, state)
    return join_in_proj(state)


def _ema_scalars(config: ConfigDict, workdir: Path, step: int) -> dict[str, Any]:
    """The average's own state; an imported one goes on from where it was."""
    report = imported_workdir.report_of(workdir)
    details = report.get("details", {})
    decay = details.get("EMA decay", config.train.ema_decay)
    updates = step
    if "EMA updates" in details:
        updates += int(details["EMA updates"]) - (report["step"] or 0)
    return {
        f"{compvis.EMA}decay": np.float32(decay),
        f"{compvis.EMA}num_updates": np.int32(updates),
    }


def _items(config: ConfigDict, workdir: Path, step: int) -> dict[str, Any]:
    """Items of the checkpoint, and the frozen first stage beside them."""
    names = ("params", "ema", "collections")
    items = {n: streaming.open_item(workdir, n, step=step) for n in names}
    is_whole = config.task == "denoising"
    frozen = {"autoencoder": _first_stage(config, workdir)} if is_whole else {}
    return {**items, "frozen": frozen}


def _averaged(items: Mapping[str, Any]) -> dict[str, Any]:
    """The averaged parameters in the place of the raw ones, and no others."""
    return {**items, "params": {**items["params"], **items["ema"]}, "ema": {}}


def _first_stage(config: ConfigDict, workdir: Path) -> PyTree:
    """Its parameters, averaged if its run kept an average."""
    path = config.autoencoder.checkpoint
    if not path:
        raise ValueError(
            f"{workdir} does not say where its first stage is: set "
            "autoencoder.checkpoint in its config.json"
        )
    folder = config_lib.resolve(path, workdir)
    items = {name: streaming.open_item(folder, name) for name in ("params", "ema")}
    return (items["params"] | items["ema"])["autoencoder"]


def _write_diffusers(
    output: Path, config: ConfigDict, items: Mapping[str, Any], workdir: Path
) -> None:
    trees = {**items["params"], **items["frozen"]}
    trees.pop("discriminator", None)
    sections = config.to_dict()
    if config.task == "denoising":
        scale = float(read_array(items["collections"]["latent_scale"]))
        sections["latent"] = {**sections["latent"], "scale": scale}
    else:
        sections = {k: sections[k] for k in ("task", "autoencoder", "data")}
    tokenizer = build_conditioner.tokenizer(config, workdir)
    with imported_workdir.new_folder(output) as folder:
        diffusers.write_folder(folder, sections, trees, tokenizer)


def _cast(leaf: Any, *, dtype: np.dtype) -> LazyArray:
    def read() -> np.ndarray:
        return read_array(leaf).astype(dtype, copy=False)

    return LazyArray(tuple(leaf.shape), dtype, read)
