"""Published checkpoints to workdirs, and workdirs to published formats.

python convert.py --input=model.ckpt --inspect
python convert.py --input=model.ckpt --model=ffhq_f4 --output=runs/ffhq_released
python convert.py --input=runs/ffhq --format=compvis --output=ffhq.safetensors
python convert.py --input=runs/emoji_f4 --format=released --dtype=float16 --output=emoji

--input may be a .ckpt, .pt, .bin or .safetensors file of the latent-diffusion or Stable
Diffusion code, a diffusers folder, or a workdir (to export). Nothing in a file is run. An
imported model is a workdir like any other: sample.py, evaluate.py and train.py take it.
"""

# Flags that are required are strings.
# pyright: reportArgumentType=false

import importlib.util
from functools import partial
from pathlib import Path

from absl import flags

from ldm_jax import config as config_lib

CONFIGS = Path(__file__).parent / "configs"
NOT_PUBLISHED = ("emoji", "parts", "tiny", "_")

INPUT = flags.DEFINE_string("input", None, "File, diffusers folder, or workdir.")
INSPECT = flags.DEFINE_bool("inspect", False, "Say what the input is; write nothing.")
CHECK_VALUES = flags.DEFINE_bool(
    "check_values", False, "With --inspect: read all of it and look for NaN."
)
MODEL = flags.DEFINE_string(
    "model",
    None,
    "Config of the model in the file: a name under configs/ (ffhq_f4, "
    "autoencoder/kl_f8) or a path; found by names and shapes if left out.",
)
OUTPUT = flags.DEFINE_string("output", None, "Workdir, file or folder to write: new.")
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    ["compvis", "diffusers", "safetensors", "released"],
    "Export: compvis (all that a .ckpt holds), safetensors (averaged weights alone, for "
    "inference), diffusers (a folder), released (a small folder that sample.py takes).",
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "float16", "bfloat16"], "Of exported weights."
)
STEP = flags.DEFINE_integer(
    "checkpoint_step", None, "Which checkpoint to export; newest if left out."
)


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax.conversion import importing, inspecting

    source = Path(INPUT.value)
    if INSPECT.value:
        _refuse_workdir(source, "--inspect looks at files of other programs")
        print(inspecting.inspect(source, _published(), check_values=CHECK_VALUES.value))
        return
    if not OUTPUT.value:
        raise ValueError("--output is missing: give it, or --inspect")
    if FORMAT.value == "released":
        from ldm_jax import loading

        loading.release(source, OUTPUT.value, dtype=DTYPE.value, step=STEP.value)
        print(f"{OUTPUT.value}: {_num_bytes(Path(OUTPUT.value)) / 2**20:,.1f} MiB")
        return
    if FORMAT.value:
        written = importing.export_checkpoint(
            source,
            FORMAT.value,
            OUTPUT.value,
            dtype=DTYPE.value,
            step=STEP.value,
        )
        print(f"{written}: {_num_bytes(written) / 2**20:,.1f} MiB")
        return
    _refuse_workdir(source, "give --format to export it")
    print(_import(source))
    print(f"\nwritten to {OUTPUT.value}")


def _import(source: Path):
    from ldm_jax.conversion import importing, inspecting

    candidates = _published()
    if inspecting.is_diffusers(source):
        config = None if MODEL.value is None else _config(MODEL.value)
        return importing.import_diffusers(
            source, OUTPUT.value, expected=config, candidates=candidates
        )
    name = MODEL.value or _only_model(source)
    return importing.import_checkpoint(
        source, _config(name), OUTPUT.value, name=name, candidates=candidates
    )


def _only_model(source: Path) -> str:
    """The name of the model that a file holds, if it can be only one."""
    from ldm_jax.conversion import inspecting

    report = inspecting.inspect(source, _published())
    if len(report.models) == 1:
        return report.models[0]
    if report.models:
        raise ValueError(
            f"{source} fits {', '.join(report.models)} alike: say which with --model"
        )
    raise ValueError(f"{source}: {report.warnings[0]}; give --model")


def _published() -> dict:
    """Functions that make the published configs, by name."""
    files = sorted(CONFIGS.rglob("*.py"))
    names = [file.relative_to(CONFIGS).with_suffix("") for file in files]
    kept = [
        name
        for name in names
        if not any(part.startswith(NOT_PUBLISHED) for part in name.parts)
    ]
    return {name.as_posix(): partial(_config, name.as_posix()) for name in kept}


def _config(name: str):
    """The config of a name under configs/, or of a path; `:argument` is passed on."""
    name, _, argument = name.partition(":")
    path = CONFIGS / f"{name}.py"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"--model={name} names no config: give one of {', '.join(_published())}, or "
            "the path of a config file"
        )
    spec = importlib.util.spec_from_file_location(f"model_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--model={name} is no Python file: give a config file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument) if argument else module.get_config()


def _refuse_workdir(path: Path, advice: str) -> None:
    if (path / "config.json").is_file() and (path / "checkpoints").is_dir():
        raise ValueError(f"{path} is a workdir of this library: {advice}")


def _num_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    config_lib.run_cli(main, required=("input",))
