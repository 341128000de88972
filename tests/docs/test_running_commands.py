"""The commands of the documentation, run one after the other with small models.

They run in a folder laid out as a clone, whose published configs are narrow
(`small_configs`) and in which pictures, masks and boxes lie where the pages say that the
reader's are: a training of one page is the checkpoint of the next command.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from documented_commands import commands
from PIL import Image

ROOT = Path(__file__).parents[2]
# In this order, each of them makes what a later one reads.
PAGES = [
    ROOT / name
    for name in (
        "docs/own_pictures.md",
        "docs/tasks.md",
        "docs/retrieval.md",
        "docs/demo.md",
        "docs/quickstart.md",
        "README.md",
        "docs/samplers.md",
        "docs/evaluation.md",
        "docs/checkpoints.md",
        "docs/conditions.md",
        "docs/installing.md",
        "docs/launching.md",
        "docs/reliability.md",
        "docs/scaling.md",
        "docs/app.md",
        "docs/notebooks.md",
        "docs/faq.md",
        "docs/index.md",
        "BENCHMARKS.md",
        "CONTRIBUTING.md",
    )
]
# What is run elsewhere: how a command begins, and where or on what.
ELSEWHERE = {
    r"make ": "the Makefile",
    r"python -m venv": "Python's own",
    r"python -m benchmarks": "tests/benchmarks/test_growth.py",
    r"python -m tools.notebooks": "tests/notebooks/test_notebooks.py",
    r"python -m tools.tasks": "tests/test_tasks.py",
    r"python app.py": "tests/test_app.py",
    # Files of a published model's size, and of another library's.
    r"python convert.py --input=[\w-]+\.ckpt --model": "tests/test_convert_full.py",
    r"python convert.py --input=stable-diffusion/": "tests/test_convert_full.py",
    r"python convert.py --input=model.ckpt --inspect": "tests/test_convert.py",
    r"python train.py .*--workdir=runs/ffhq_released": "tests/test_convert.py",
    # A TPU's compiler; a step that failed; several processes.
    r"python tools/compile_for_topology.py": "tests/compiling/test_command.py",
    r"python tools/replay_step.py": "tests/training/test_recorded_runs.py",
    r"python train.py( --coordinator\S+ ?| --num_processes\S+ ?| --process_id\S+ ?)*$": (
        "tests/test_two_processes.py"
    ),
    r"python train.py .*array_record:": "tests/data/test_array_record.py",
    # Halves of commands, whole on docs/samplers.md and docs/own_pictures.md.
    r"python sample.py --low_res=photo.png$": "tests/test_sample.py",
    r"python train.py --config=configs/ffhq_f4.py --config.evaluation.every=25000$": (
        "tests/test_run.py"
    ),
    r"python evaluate.py --samples=ten.npz": "tests/evaluating/test_evaluate.py",
}
# Where the reader's own things lie, longest first, and where they lie here.
OWN = {
    "/path/to/instances.json": "instances.json",
    "/path/to/images": "pictures",
    "/path/to/labels": "labels",
    "/path/to/ffhq": "pictures",
    "/path/to/clip": "clip",
    "/imagenet/val": "pictures",
    "--samples=samples/": "--samples=drawn_before",
    "folder:/path": "folder:pictures",
    "/shared/": "",
    "assets/docs": "drawn",
}
# Runs that no page makes, and what stands for them.
STANDS_FOR = {
    "runs/ffhq": "runs/mine",
    "runs/ffhq_released": "runs/mine",
    "runs/sd": "runs/mine",
    "runs/sd_v1_released": "runs/text",
    "runs/tasks/class_label": "runs/emoji_f4",
    "runs/tasks/text": "runs/text",
    "runs/tasks/layout": "runs/layout",
    "runs/tasks/semantic": "runs/landscapes",
    "runs/tasks/super_resolution": "runs/sr",
    "runs/tasks/inpainting": "runs/inpaint",
    "runs/tasks/retrieval": "runs/rdm",
}
FIRST_STAGES = ("kl_f8", "kl_f16", "vq_f4_noattn")
CLASSES = ("cat", "dog", *"abcdefghij")


def elsewhere(line: str) -> str | None:
    return next(
        (where for key, where in ELSEWHERE.items() if re.match(key, line)), None
    )


def shown() -> list[tuple[str, ...]]:
    """Each command once, in the order of the pages, without those run elsewhere."""
    lines = [" ".join(c.words) for page in PAGES for c in commands(page)]
    words = {" ".join(c.words): c.words for page in PAGES for c in commands(page)}
    return [words[line] for line in dict.fromkeys(lines) if not elsewhere(line)]


def test_every_page_is_tried():
    with_commands = {
        page
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        if commands(page)
    }
    assert with_commands <= set(PAGES)


def test_what_is_run_elsewhere_is_there():
    for where in ELSEWHERE.values():
        assert not where.startswith("tests/") or (ROOT / where).is_file(), where


def lay_out(stage: Path) -> None:
    """A clone with small configs, and what the reader would have beside it."""
    for path in ROOT.iterdir():
        if path.suffix == ".py" or path.name in ("ldm_jax", "tools"):
            (stage / path.name).symlink_to(path)
    for path in (ROOT / "configs").rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("")
        if path.stem != "__init__" and name.parts[1] != "parts":
            copy = (stage / name).with_suffix(".py")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(SMALL_CONFIG.format(module=".".join(name.parts)))
    draw_world(stage)
    write_clip(stage / "clip")


SMALL_CONFIG = """
from {module} import get_config as published
from tests.docs.small_configs import small

def get_config(*args):
    return small(published(*args))
"""


def draw_world(stage: Path) -> None:
    """Pictures with classes, captions, label maps and boxes; one to vary, holes."""
    random = np.random.default_rng(0)
    images, boxes = [], []
    for split, count in (("train", 84), ("val", 12)):
        for index in range(count):
            name = f"{split}/{CLASSES[index % len(CLASSES)]}/{index}"
            size = (40, 36 + index % 3)
            pixels = random.integers(0, 256, (*size, 3), np.uint8)
            labels = random.integers(0, 3, size, np.uint8)
            for folder, array in (("pictures", pixels), ("labels", labels)):
                save(stage / folder / f"{name}.png", array)
            (stage / "pictures" / f"{name}.txt").write_text(
                f"a {CLASSES[index % len(CLASSES)]}"
            )
            images.append(
                {
                    "id": len(images),
                    "file_name": f"{name}.png",
                    "height": size[0],
                    "width": size[1],
                }
            )
            boxes += [
                {
                    "id": len(boxes) + i,
                    "image_id": len(images) - 1,
                    "category_id": i,
                    "bbox": [2 + 10 * i, 3, 20, 18],
                }
                for i in range(2)
            ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    tables = {"images": images, "annotations": boxes, "categories": categories}
    (stage / "instances.json").write_text(json.dumps(tables))
    layout = [{"class": "cat", "box": [0.1, 0.2, 0.5, 0.4]}]
    (stage / "boxes.json").write_text(json.dumps(layout))
    for name in ("a", "photo", "drawing", "small"):
        save(stage / f"{name}.png", random.integers(0, 256, (24, 32, 3), np.uint8))
    for index in range(8):
        pixels = random.integers(0, 256, (16, 16, 3), np.uint8)
        save(stage / "drawn_before" / f"{index}.png", pixels)
    save(stage / "map.png", random.integers(0, 3, (24, 32), np.uint8))
    save(stage / "hole.png", np.uint8(255) * (random.random((24, 32)) < 0.5))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_clip(folder: Path) -> None:
    """A CLIP of random weights, as transformers saves it."""
    from tests.parity.torch_transformers import import_transformers

    transformers = import_transformers()
    tower = {
        "hidden_size": 8,  # as wide as the tokens of narrow models
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    config = transformers.CLIPConfig(
        text_config=tower | {"vocab_size": 49_408, "eos_token_id": 49_407},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)


def cheaper(words: tuple[str, ...]) -> list[str]:
    """Flags that come after a command's own: few steps, few pictures, weights at hand."""
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    match words[1]:
        case "train.py" if "--config.evaluation.every" in given:
            return [
                "--config.train.num_steps=4",  # two more than the run has
                "--config.evaluation.every=4",
                "--config.evaluation.num_samples=4",
                "--config.evaluation.network=efficientnet_lite0",
            ]
        case "sample.py":
            return ["--steps=2", "--num_samples=2"] if "--checkpoint" in given else []
        case "evaluate.py":
            flags = ["--network=efficientnet_lite0"]
            if metrics := given.get("--metrics"):  # Inception's scores need its weights
                kept = [m for m in metrics.split(",") if m not in ("is", "ris")]
                flags.append(f"--metrics={','.join(kept)}")
            if "--checkpoint" in given:
                flags += ["--num_samples=8", "--steps=2"]
            return flags
        case "tools/sampler_gallery.py":
            return ["--outdir=drawn"]
    return []


def run(words: list[str], stage: Path) -> str | None:
    """The end of what a command says if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop(
        "XLA_FLAGS", None
    )  # one device: the tests' eight share no batch of 2
    result = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=stage,
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    return None if result.returncode == 0 else (result.stderr or result.stdout)[-2000:]


@pytest.mark.slow
def test_the_commands_run(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    lay_out(tmp_path)
    before = [
        ("python", "train.py", f"--config=configs/autoencoder/{name}.py",
         f"--workdir=runs/{name}", "--config.data.source=folder:pictures")
        for name in FIRST_STAGES
    ]  # fmt: skip
    failed = {}
    for words in [*before, *shown()]:
        for name, stand_in in STANDS_FOR.items():
            path, made = tmp_path / name, tmp_path / stand_in
            if made.exists() and not path.exists() and f"={name}" in " ".join(words):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(made)
        placed = [place(word) for word in (*words, *cheaper(words))]
        if said := run(placed, tmp_path):
            failed[" ".join(placed)] = said
        print("failed" if said else "ran", " ".join(placed), said or "", flush=True)
    assert not failed, "\n\n".join(f"{key}\n{said}" for key, said in failed.items())


def place(word: str) -> str:
    """A word whose paths of the reader's are those of the stage."""
    for there, here in OWN.items():
        word = word.replace(there, here)
    return word
