"""`make demo`: train both stages on the vendored emoji and draw pictures with them.

python tools/demo.py --workdir=runs
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUM_MEASURED = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    workdir = parser.parse_args().workdir.resolve()
    first_stage, model = workdir / "emoji_kl_f4", workdir / "emoji_f4"
    started = time.monotonic()
    print("1/4 training the first stage", flush=True)
    script(
        "train.py",
        "--config=configs/autoencoder/emoji_kl_f4.py",
        f"--workdir={first_stage}",
    )
    print("2/4 training the latent diffusion model", flush=True)
    script(
        "train.py",
        "--config=configs/emoji_f4.py",
        f"--workdir={model}",
        f"--config.autoencoder.checkpoint={first_stage}",
    )
    print("3/4 sampling", flush=True)
    samples = workdir / "emoji_samples"
    script(
        "sample.py",
        f"--checkpoint={model}",
        "--num_samples=64",
        "--batch_size=64",
        f"--outdir={samples}",
    )
    print(
        "4/4 measuring, with an ImageNet network, against held-out pictures", flush=True
    )
    distance = frechet_distance(samples / "metrics.json", f"--checkpoint={model}")
    floor = frechet_distance(
        samples / "floor.json", "--samples=emoji64:train", "--image_size=64"
    )
    seconds = time.monotonic() - started
    report(first_stage, model, samples, (distance, floor), seconds)


def script(name: str, *arguments: str) -> None:
    """Run one of the project's commands; stop with its exit code if it fails."""
    command = [sys.executable, str(ROOT / name), *arguments]
    result = subprocess.run(command, cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(result.returncode)


def frechet_distance(output: Path, *pictures: str) -> float:
    """FD of `NUM_MEASURED` pictures to the held-out emoji; the report goes to `output`."""
    script(
        "evaluate.py",
        *pictures,
        "--reference=emoji64:val",
        "--network=efficientnet_lite0",
        "--metrics=fid",
        f"--num_samples={NUM_MEASURED}",
        f"--output={output}",
    )
    return json.loads(output.read_text())["metrics"]["fd_efficientnet_lite0"]


def report(
    first_stage: Path,
    model: Path,
    samples: Path,
    distances: tuple[float, float],
    seconds: float,
) -> None:
    """The numbers, and where the pictures are."""
    quality = last_values(first_stage)
    loss = last_values(model)
    previews = sorted(
        first_stage.glob("previews/*.png"), key=lambda p: p.stat().st_mtime
    )
    print(
        f"\nmade in {seconds / 60:.1f} minutes\n"
        f"held-out reconstructions: PSNR {quality['val/psnr']:.2f} dB, "
        f"LPIPS {quality['val/lpips']:.3f}\n"
        f"held-out denoising loss (EMA): {loss['val/loss_ema']:.4f}\n"
        f"FD-EfficientNet of {NUM_MEASURED} pictures to the held-out ones: samples "
        f"{distances[0]:.1f}, training pictures {distances[1]:.1f} (the floor)\n"
        f"reconstructions: {previews[-1]}\n"
        f"samples: {samples / 'grid.png'}"
    )


def last_values(workdir: Path) -> dict[str, float]:
    """The newest value of every metric of a run."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    values: dict[str, float] = {}
    for line in lines:
        values |= json.loads(line)
    return values


if __name__ == "__main__":
    main()
