"""The import directions of docs/architecture.md, read from the source of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
L0 = {"arrays", "lazy_array", "rng", "trees"}
L0 |= {"safe_pickle", "shipped", "stored_tensor", "torch_archive"}
L1 = {"diffusion", "nn", "training"}
L2 = {"autoencoders", "backbones", "conditioners", "adversarial", "features"}
L3 = {"samplers", "guidance", "tiling", "latent_diffusion", "sample_fn", "stepwise"}
L4 = {"tasks", "evaluation", "interop"}
COMPOSITION = {
    "__init__",
    "app",
    "build",
    "build_conditioner",
    "build_data",
    "condition_pictures",
    "build_diffusion",
    "canvas",
    "caption_vocabulary",
    "commands",
    "compiling",
    "config",
    "conversion",
    "doctor",
    "evaluating",
    "loading",
    "model",
    "picture_inputs",
    "plan",
    "pretrained",
    "retrieving",
    "run",
    "run_data",
    "run_hooks",
    "run_step",
    "recording",
    "released",
    "replay",
    "sections",
    "sample_outputs",
    "sampling_batches",
    "sampling_inputs",
}

# What each part of ldm_jax may import of ldm_jax, itself apart.
ALLOWED = (
    {name: set() for name in L0 | {"data"}}
    | dict.fromkeys(L1, L0)
    | dict.fromkeys(L2, L0 | {"nn"})
    | {"samplers": L0 | {"diffusion"}, "guidance": L0 | {"diffusion"}}
    | {"tiling": L0 | {"diffusion"}}
    | {"latent_diffusion": L0 | L2 | {"diffusion", "nn", "tiling"}}
    | {"sample_fn": L0 | {"diffusion", "nn"} | (L3 - {"sample_fn", "stepwise"})}
    | {"stepwise": L0 | {"diffusion", "nn"} | L3}
    | dict.fromkeys(L4, L0 | {"diffusion", "nn"} | L2 | L3)
)
ALLOWED["data"] = {"shipped"}
ALLOWED["torch_archive"] = {"safe_pickle", "stored_tensor"}
ALLOWED["tasks"] = ALLOWED["tasks"] | {"training"}

# Third-party packages that only these files may import (paths under the root).
CONFINED = {
    "orbax": (
        "ldm_jax/training/checkpoints.py",
        "ldm_jax/training/checkpoint_files.py",
        "ldm_jax/training/checkpoint_writer.py",
        "ldm_jax/training/streaming.py",
    ),
    "grain": ("ldm_jax/data/",),
    "array_record": ("ldm_jax/data/", "tools/"),
    "tensorboardX": ("ldm_jax/training/metrics.py",),
    "clu": ("ldm_jax/plan.py",),
}
FORBIDDEN = {
    "ldm_jax/data/": ("jax", "flax", "tensorflow"),
    "ldm_jax/diffusion/": ("flax",),
    "ldm_jax/samplers/": ("flax",),
    "ldm_jax/": ("tensorflow", "torch"),
}


def imports(path: Path) -> set[str]:
    """Absolute dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(*folders: str) -> list[str]:
    """Python files under the given folders, as paths relative to the root."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(str(path.relative_to(ROOT)) for path in found)


def parts_of(names: set[str]) -> set[str]:
    """Top-level parts of ldm_jax among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("ldm_jax.")}


@pytest.mark.parametrize("file", sources("ldm_jax"))
def test_file_imports_only_from_lower_layers(file):
    part = Path(file).with_suffix("").parts[1]
    if part in COMPOSITION:
        return
    assert part in ALLOWED, f"{file}: give the new part {part!r} a layer"
    wrong = parts_of(imports(ROOT / file)) - ALLOWED[part] - {part}
    assert not wrong, f"{file} imports {sorted(wrong)}, which its layer may not"


@pytest.mark.parametrize("file", sources("ldm_jax", "configs"))
def test_third_party_packages_stay_in_their_place(file):
    packages = {name.split(".")[0] for name in imports(ROOT / file)}
    for package, places in CONFINED.items():
        assert package not in packages or file.startswith(places), f"{file}: {package}"
    for place, banned in FORBIDDEN.items():
        if file.startswith(place):
            assert not packages & set(banned), f"{file}: {packages & set(banned)}"


@pytest.mark.parametrize("file", sources("configs"))
def test_configs_import_only_configs_and_ml_collections(file):
    packages = {name.split(".")[0] for name in imports(ROOT / file)}
    assert packages <= {"configs", "ml_collections"}, f"{file}: {packages}"


def test_the_rules_catch_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from ldm_jax.training import step\n")
    assert parts_of(imports(wrong)) - ALLOWED["diffusion"] == {"training"}
