"""Checkpoints of any size are copied in the memory of their largest tensor."""

import subprocess
import sys

import pytest
from archive_files import FORMATS, save

torch = pytest.importorskip("torch")

COUNT = 12
FULL = pytest.mark.full

COPY = """
import sys
from ldm_jax.interop.archive import count_nonfinite, open_checkpoint, write_safetensors

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))

before = status("VmRSS")
tensors = open_checkpoint(sys.argv[1]).tensors
opened = status("VmHWM") - before
for tensor in tensors.values():
    assert count_nonfinite(tensor) == 0
    del tensor
write_safetensors(sys.argv[2], tensors)
print(opened, status("VmHWM") - before, *(m for m in ("jax", "torch") if m in sys.modules))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("largest", [8 << 20, pytest.param(24 << 20, marks=FULL)])
def test_copying_a_checkpoint_takes_the_memory_of_one_tensor(tmp_path, layout, largest):
    weight = torch.zeros(largest // 4)
    content = {f"layer.{i}": weight + i for i in range(COUNT)}
    turned = torch.zeros(512, 1024).T
    content["turned"] = turned.contiguous() if layout == "safetensors" else turned
    path, out = save(content, tmp_path / "in", layout), tmp_path / "out.safetensors"
    run = subprocess.run(
        [sys.executable, "-c", COPY, path, out],
        check=False,
        capture_output=True,
        text=True,
    )
    size = path.stat().st_size
    path.unlink()  # pytest keeps folders
    assert run.returncode == 0, run.stderr
    assert out.stat().st_size > COUNT * largest
    out.unlink()
    opened, peak, *modules = run.stdout.split()
    print(f"{layout}: {size >> 20} MB take {int(opened) / 2**20:.1f} MB to open and "
          f"{int(peak) / 2**20:.1f} MB to copy; largest tensor {largest >> 20} MB")  # fmt: skip
    assert not modules, "neither jax nor torch is needed"
    assert int(opened) < largest // 2
    assert int(peak) < 1.5 * largest
