"""Full-size checkpoints of every published model through convert.py, and back.

Values are random and made on demand, so that nothing here holds a whole checkpoint; the
commands run in processes of their own, whose peak of memory is printed.
"""

import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.interop.archive import open_checkpoint, write_safetensors
from ldm_jax.lazy_array import LazyArray
from tests import synthetic_checkpoints as synthetic
from tests.interop.test_published_models import stable_diffusion_2_keys
from tests.published_models import CONFIGS, config_of, manifest

ROOT = Path(__file__).parents[1]
SHARED = "cond_stage_model.", "first_stage_model."
# Beside jax and orbax themselves, a batch of tensors and its copies.
FIXED_BYTES = 1.2 * 2**30

SMALL = [name for name in CONFIGS if name.startswith("first_stage")]
# celeba256 and lsun_beds256 are ffhq256 with other values; so is synthesis512 the other.
LARGE = [
    "ldm_ffhq256",
    "ldm_lsun_churches256",
    "ldm_cin256-v2",
    "ldm_cin256",
    "ldm_text2img256",
    "ldm_layout2img-openimages256",
    "ldm_semantic_synthesis256",
    "ldm_bsr_sr",
    "ldm_inpainting_big",
    "sd_v1",
    "sd_v1_inpaint",
    "sd_v2",
    "ldm_txt2img-1p4B-eval",
    "ldm_rdm768x768",
]


def keys_of(name):
    """(names and shapes, config) of a published checkpoint."""
    if name == "sd_v2":
        return stable_diffusion_2_keys(), "sd_v2"
    if name == "sd_v1_inpaint":
        keys = manifest("sd_v1")[0]
        keys["model.diffusion_model.input_blocks.0.0.weight"] = (320, 9, 3, 3)
        return keys, name
    return manifest(name)[0], CONFIGS[name]


def random_state(keys, config):
    """Lazy tensors: the same value whenever one is read."""
    fixed = synthetic.buffers(config) if config.task == "denoising" else {}
    fixed |= {"model_ema.decay": np.float32(0.9999)}
    fixed |= {"model_ema.num_updates": np.int32(1000)}
    shares = f"{SHARED[0]}encoder.conv_in.weight" in keys

    def tensor(name, shape):
        if name in fixed:
            value = fixed[name]
            return LazyArray(value.shape, value.dtype, lambda: value)
        if name.endswith("position_ids"):
            numbers = np.arange(shape[1])[None]
            return LazyArray(shape, numbers.dtype, lambda: numbers)
        seed = zlib.crc32((name.replace(*SHARED) if shares else name).encode())

        def read():
            random = np.random.default_rng(seed)
            return random.random(shape, dtype=np.float32) - np.float32(0.5)

        return LazyArray(tuple(shape), np.dtype(np.float32), read)

    return {name: tensor(name, shape) for name, shape in keys.items()}


def convert(*arguments):
    """Run convert.py; (its output, peak of its memory in bytes, seconds)."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "convert.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, out
    return out, usage.ru_maxrss * 1024, time.monotonic() - start


def is_kept(name):
    """Whether a tensor comes back: all but the training loss and what nothing reads."""
    lost = ("loss.perceptual_loss", "loss.logvar", "cond_stage_model.model.text_proj")
    lost += ("cond_stage_model.model.logit_scale", "cond_stage_model.model.attn_mask")
    return not name.startswith(lost) and not name.endswith("num_batches_tracked")


def check(written, state):
    """Every tensor of the file written against the one it was made from."""
    tensors = open_checkpoint(written).tensors
    kept = {name: value for name, value in state.items() if is_kept(name)}
    assert set(tensors) == set(kept)
    for name, lazy in kept.items():
        if name in synthetic.SCHEDULE_NAMES:
            np.testing.assert_array_max_ulp(tensors[name], lazy.read(), maxulp=1)
        elif "to_logits" in name:
            assert not tensors[name].any()
        else:
            assert np.array_equal(tensors[name], lazy.read()), name


@pytest.mark.full
@pytest.mark.parametrize("name", SMALL + LARGE)
def test_a_full_checkpoint_comes_back_bit_for_bit(name, tmp_path, capsys):
    keys, config_name = keys_of(name)
    state = random_state(keys, config_of(config_name))
    file, workdir = tmp_path / "model.safetensors", tmp_path / "run"
    back = tmp_path / "back.safetensors"
    write_safetensors(file, state, {"global_step": "1000"})
    size = file.stat().st_size
    model = config_name.replace(".", "/")
    arguments = (f"--input={file}", f"--model={model}", f"--output={workdir}")
    out, import_peak, import_seconds = convert(*arguments)
    assert "only in model" in out and "warning" not in out
    file.unlink()
    arguments = (f"--input={workdir}", "--format=compvis", f"--output={back}")
    _, export_peak, export_seconds = convert(*arguments)
    check(back, state)
    with capsys.disabled():
        print(
            f"\n{name}: file {size / 2**20:,.0f} MiB, "
            f"import {import_peak / 2**20:,.0f} MiB {import_seconds:.0f} s, "
            f"export {export_peak / 2**20:,.0f} MiB {export_seconds:.0f} s"
        )
    assert max(import_peak, export_peak) < max(FIXED_BYTES, 0.6 * size)
    back.unlink()
    shutil.rmtree(workdir)  # pytest would keep it
