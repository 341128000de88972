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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    workdir = parser.parse_args().workdir.resolve()
    first_stage, model = workdir / "emoji_kl_f4", workdir / "emoji_f4"
    started = time.monotonic()
    print("1/3 training the first stage", flush=True)
    script(
        "train.py",
        "--config=configs/autoencoder/emoji_kl_f4.py",
        f"--workdir={first_stage}",
    )
    print("2/3 training the latent diffusion model", flush=True)
    script(
        "train.py",
        "--config=configs/emoji_f4.py",
        f"--workdir={model}",
        f"--config.autoencoder.checkpoint={first_stage}",
    )
    print("3/3 sampling", flush=True)
    samples = workdir / "emoji_samples"
    script(
        "sample.py",
        f"--checkpoint={model}",
        "--num_samples=64",
        "--batch_size=64",
        f"--outdir={samples}",
    )
    report(first_stage, model, samples, time.monotonic() - started)


def script(name: str, *arguments: str) -> None:
    """Run one of the project's commands; stop with its exit code if it fails."""
    command = [sys.executable, str(ROOT / name), *arguments]
    result = subprocess.run(command, cwd=ROOT, check=False)
    if result.returncode:
        sys.exit(result.returncode)


def report(first_stage: Path, model: Path, samples: Path, seconds: float) -> None:
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
