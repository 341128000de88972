"""Records, rates and hooks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from ldm_jax.training import compilation, hooks, metrics
from ldm_jax.training.throughput import Throughput, peak_flops


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_rows_start_with_the_step_and_are_valid_json(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = metrics.JsonlWriter(path)
    writer.write_scalars(5, {"loss": 0.25, "psnr": float("inf"), "mfu": None})
    assert path.read_text() == (
        '{"step": 5, "loss": 0.25, "psnr": null, "mfu": null}\n'
    )


def test_resume_drops_later_and_broken_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    metrics.JsonlWriter(path, first_step=2).write_scalars(3, {"loss": 1.0})
    assert rows(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]
    metrics.JsonlWriter(path, first_step=0)
    assert rows(path) == []


def test_float32_losses_survive_the_file_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    writer = metrics.JsonlWriter(tmp_path / "m.jsonl")
    for step, value in enumerate(values):
        writer.write_scalars(step, metrics.fetch({"loss": jnp.asarray(value)}))
    read = np.array([row["loss"] for row in rows(tmp_path / "m.jsonl")], np.float32)
    np.testing.assert_array_equal(read, values)


def test_tensorboard_events_are_written(tmp_path):
    writers = metrics.make_writers(tmp_path)
    for writer in writers:
        writer.write_scalars(1, {"loss": 1.0, "mfu": None})
        writer.write_image(1, "preview", np.zeros((8, 8, 3), np.uint8))
        writer.close()
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert rows(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1.0, "mfu": None}]


def test_console_without_a_terminal_prints_lines(capsys):
    console = metrics.Console(first_step=0, num_steps=100)
    scalars = {"loss": 0.5, "denoise/loss": 0.5, "images_per_sec": 12.34, "mfu": 0.25}
    console.tick(1)
    console.tick(2)
    console.write_scalars(2, scalars)
    console.close()
    line = capsys.readouterr().err
    assert line.startswith("step 2/100 loss 0.5 images/s 12.34 mfu 25.0% left 0:00:0")
    assert line.count("\n") == 1


def test_console_on_a_terminal_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console = metrics.Console(first_step=10, num_steps=20)
    console.tick(15)
    console.write_scalars(15, {"loss": 0.5, "images_per_sec": 12.0, "mfu": None})
    console.close()
    text = capsys.readouterr().err
    assert "15/20" in text and "loss=0.5" in text and "images/s=12" in text


class Clock:
    """A clock set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


def test_throughput_counts_images_and_flops_between_logs():
    clock = Clock()
    throughput = Throughput(8, flops_per_step=3e12, peak=1e13, clock=clock)
    assert throughput.measure(1) == {"images_per_sec": None, "mfu": None}
    clock.now = 2.0
    rates = throughput.measure(5)  # 4 steps in 2 s
    assert rates == {"images_per_sec": 16.0, "mfu": pytest.approx(0.6)}


def test_throughput_leaves_out_pauses():
    clock = Clock()
    throughput = Throughput(8, clock=clock)
    throughput.start(1)

    def slow(step, state, metrics):
        clock.now += 100.0

    hooks.untimed(throughput, slow)(2, toy.tiny_state(), {})
    clock.now += 1.0
    assert throughput.measure(3) == {"images_per_sec": 16.0, "mfu": None}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_peak_is_found_by_device_kind(kind, peak):
    class Device:
        device_kind = kind

    assert peak_flops(Device()) == peak


def test_flops_are_those_of_the_matmul():
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    y = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    flops = compilation.flops_per_step(compiled)
    assert flops == pytest.approx(2 * 64 * 32 * 16, rel=0.01)
    twice = compilation.flops_per_step(compiled, grad_accumulation=2)
    assert twice == 2 * flops
    assert compilation.peak_bytes(compiled) >= 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_every_calls_at_multiples_and_at_the_end():
    def steps(n, **kwargs):
        seen = []
        hook = hooks.every(n, lambda step, state, metrics: seen.append(step), **kwargs)
        for step in range(1, 8):
            hook(step, None, {})
        return seen

    assert steps(3) == [3, 6]
    assert steps(3, last_step=7) == [3, 6, 7]
    assert steps(0, last_step=7) == []


def test_preview_is_a_png(tmp_path):
    pixels = np.full((4, 6, 3), 200, np.uint8)
    hook = hooks.preview(lambda step, state: pixels, tmp_path / "previews")
    hook(30, None, {})
    np.testing.assert_array_equal(Image.open(tmp_path / "previews/step_30.png"), pixels)
    assert [p.name for p in (tmp_path / "previews").iterdir()] == ["step_30.png"]


def test_progress_starts_the_clock_after_the_first_step():
    clock = Clock()
    throughput = Throughput(2, clock=clock)
    console = metrics.Console(first_step=0, num_steps=10)
    hook = hooks.progress(console, throughput)
    clock.now = 50.0  # compilation
    hook(1, toy.tiny_state(), {})
    clock.now = 52.0
    hook(2, toy.tiny_state(), {})
    assert throughput.measure(3)["images_per_sec"] == 2.0


def test_profile_writes_a_trace(tmp_path):
    hook = hooks.profile(tmp_path, first_step=1, num_steps=1)
    for step in (1, 2, 3):
        hook(step, jax.jit(jnp.sin)(jnp.ones(4)), {})
    assert list(tmp_path.rglob("*.xplane.pb"))
