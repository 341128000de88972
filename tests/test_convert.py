"""Published checkpoints in, workdirs out, and back: through files and the command."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import ldm_jax
from ldm_jax import config as config_lib
from ldm_jax import run, trees
from ldm_jax.conversion import describing, importing, inspecting
from ldm_jax.interop.archive import open_checkpoint, write_safetensors
from ldm_jax.training import checkpoints
from tests import synthetic_checkpoints as synthetic
from tests.published_models import config_of, narrow

ROOT = Path(__file__).parents[1]

# One model of each kind: (config, with an average). Between them: VQ and KL, plain
# attention and transformers, every kind of conditioner, a measured latent scale.
KINDS = {
    "lsun_churches_f8": True,
    "imagenet_f8": True,
    "text2img_f4": True,
    "semantic_landscapes_f4": True,
    "inpaint_f4": True,
    "sd_v1_inpaint": False,
    "sd_v2": False,
}


def save(state, path, layout="safetensors", *, step=40):
    """Write a state dict as that kind of file."""
    if layout == "safetensors":
        write_safetensors(path, synthetic.lazily(state), {"global_step": str(step)})
        return path
    torch = pytest.importorskip("torch")
    content = synthetic.lightning_content(state, step=step)
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    return path


def read(path):
    tensors = open_checkpoint(path).tensors
    return {name: tensors[name] for name in tensors}


def assert_same_file(path, state, *, zeroed=()):
    """Every tensor of the original file, bit for bit; `zeroed` ones as zeros."""
    written = read(path)
    assert written.keys() == state.keys()
    for name, value in state.items():
        if name in synthetic.SCHEDULE_NAMES:  # computed anew, rounded once
            np.testing.assert_array_max_ulp(written[name], value, maxulp=1)
        elif name in zeroed:
            assert not written[name].any()
        else:
            np.testing.assert_array_equal(written[name], value, err_msg=name)
            assert written[name].dtype == value.dtype, name


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_checkpoint_comes_back_bit_for_bit(name, tmp_path):
    config = narrow(config_of(name))
    state = synthetic.state_dict(config, with_ema=KINDS[name])
    extra = synthetic.unused(config)
    file = save(state | extra, tmp_path / "model.safetensors")
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    assert not report.warnings and report.step == 40
    assert report.has_ema == KINDS[name]
    written = importing.export_checkpoint(tmp_path / "run", "compvis", tmp_path / "out")
    if name == "inpaint_f4":
        extra = {
            name.replace("first_stage_model", "cond_stage_model"): value
            for name, value in state.items()
            if name.startswith("first_stage_model")
        }
    zeroed = [name for name in extra if "to_logits" in name]
    extra = {
        n: v for n, v in extra.items() if not n.startswith("cond_stage_model.model")
    }
    assert_same_file(written, state | extra, zeroed=zeroed)


def test_a_first_stage_comes_back_with_its_discriminator(tmp_path):
    config = config_of("autoencoder.kl_f8")
    config.autoencoder.update({"ch": 4, "num_groups": 2, "num_res_blocks": 1})
    config.adversarial.ndf = 4
    state = synthetic.state_dict(config)
    loss = {"loss.perceptual_loss.lin0.model.1.weight": np.ones((1, 4, 1, 1), "f4")}
    file = save(state | loss, tmp_path / "model.ckpt", "zip")
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    assert report.left_out == {"networks and constants of the training loss": 1}
    params = checkpoints.load_item(tmp_path / "run", "params")
    assert params.keys() == {"autoencoder", "discriminator"}
    stats = checkpoints.load_item(tmp_path / "run", "collections")
    assert stats["discriminator"]["batch_stats"]
    written = importing.export_checkpoint(
        tmp_path / "run", "compvis", tmp_path / "a.safetensors"
    )
    assert_same_file(written, state)


def test_a_first_stage_without_its_discriminator_is_imported(tmp_path):
    config = config_of("autoencoder.kl_f4")
    config.autoencoder.update({"ch": 4, "num_groups": 2, "num_res_blocks": 1})
    state = synthetic.state_dict(config)
    bare = {k: v for k, v in state.items() if not k.startswith("loss.")}
    file = save(bare, tmp_path / "model.safetensors")
    importing.import_checkpoint(file, config, tmp_path / "run")
    assert checkpoints.load_item(tmp_path / "run", "params").keys() == {"autoencoder"}


TINY = """
from configs.tiny import ldm

def get_config():
    config = ldm.get_config("kl")
    config.backbone.update({"channel_mult": (1,), "attention_resolutions": ()})
    return config
"""


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    """A config file of a model with every extra: classes, an average, a measured scale."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def tiny(tiny_file):
    """(that config, a state dict of its model)."""
    spec = importlib.util.spec_from_file_location("tiny", tiny_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    return config, synthetic.state_dict(config)


@pytest.fixture(scope="module")
def tiny_run(tiny, tmp_path_factory):
    """That model imported from a zip .ckpt with Lightning's extras."""
    folder = tmp_path_factory.mktemp("tiny")
    config, state = tiny
    file = save(state, folder / "model.ckpt", "zip")
    importing.import_checkpoint(file, config, folder / "run")
    return folder / "run"


@pytest.mark.parametrize("layout", ["legacy", "safetensors"])
def test_other_files_of_the_same_tensors_give_the_same_run(
    layout, tiny, tiny_run, tmp_path
):
    config, state = tiny
    file = save(state, tmp_path / "model.bin", layout)
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    assert report.step == 40
    for item in ("params", "ema", "collections"):
        jax.tree.map(
            np.testing.assert_array_equal,
            checkpoints.load_item(tmp_path / "run", item),
            checkpoints.load_item(tiny_run, item),
        )


def test_the_workdir_has_what_a_run_has(tiny, tiny_run):
    state = tiny[1]
    assert checkpoints.all_steps(tiny_run) == [40]
    written = config_lib.load(tiny_run / "config.json")
    assert written.autoencoder.checkpoint == "autoencoder"
    scale = checkpoints.load_item(tiny_run, "collections")["latent_scale"]
    assert scale == state["scale_factor"] == np.float32(0.7261)
    kernel = checkpoints.load_item(tiny_run, "ema")["backbone"]["conv_in"]["kernel"]
    raw = state["model.diffusion_model.input_blocks.0.0.weight"]
    np.testing.assert_array_equal(kernel, raw.transpose(2, 3, 1, 0) + np.float32(0.5))
    report = json.loads((tiny_run / "imported.json").read_text())
    assert report["format"] == "torch zip" and report["step"] == 40
    assert report["details"]["EMA updates"] == 123


def test_an_imported_model_draws_pictures(tiny_run):
    model = ldm_jax.load(tiny_run)
    pictures = model.sample(2, class_labels=[0, 1], steps=2)
    assert pictures.shape == (2, 32, 32, 3) and pictures.dtype == np.uint8
    assert model.step == 40


@pytest.mark.slow
def test_an_imported_model_trains_on_and_its_result_goes_back(tiny, tiny_run, tmp_path):
    config, state = tiny
    workdir = tmp_path / "run"
    shutil.copytree(tiny_run, workdir)
    config = config.copy_and_resolve_references()
    config.autoencoder.checkpoint = "autoencoder"
    config.train.num_steps = 42
    run.train(config, workdir, devices=jax.devices()[:1])
    assert checkpoints.all_steps(workdir) == [40, 42]
    before, after = (
        checkpoints.load_item(workdir, "params", step=step) for step in (40, 42)
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert 0 < max(jax.tree.leaves(moved)) < 0.1  # two steps of Adam from the file
    average = checkpoints.load_item(workdir, "ema", step=42)
    assert average.keys() == {"backbone", "conditioner"}
    # An average that went on, not one that started anew from the raw parameters.
    gap = (
        average["backbone"]["conv_in"]["kernel"]
        - after["backbone"]["conv_in"]["kernel"]
    )
    assert np.abs(gap - 0.5 * (1 - 9 / 52) ** 2).max() < 0.1

    written = importing.export_checkpoint(workdir, "compvis", tmp_path / "out")
    exported = read(written)
    assert exported.keys() == state.keys()
    assert exported["model_ema.num_updates"] == 125
    again = tmp_path / "again"
    importing.import_checkpoint(written, config, again)
    for item in ("params", "collections"):
        jax.tree.map(
            np.testing.assert_array_equal,
            checkpoints.load_item(again, item),
            checkpoints.load_item(workdir, item, step=42),
        )
    assert checkpoints.all_steps(again) == [42]
    # The original averages no conditioner that is not part of the denoiser; this is one.
    jax.tree.map(
        np.testing.assert_array_equal, checkpoints.load_item(again, "ema"), average
    )
    run.train(config, workdir, devices=jax.devices()[:1])  # resumes, nothing to do
    assert checkpoints.all_steps(workdir) == [40, 42]


def test_inference_files_hold_the_averaged_weights(tiny, tiny_run, tmp_path):
    state = tiny[1]
    written = importing.export_checkpoint(
        tiny_run, "safetensors", tmp_path / "a.safetensors", dtype="float16"
    )
    tensors = read(written)
    assert not any(name.startswith("model_ema") for name in tensors)
    name = "model.diffusion_model.out.2.weight"
    assert tensors[name].dtype == np.float16
    np.testing.assert_array_equal(
        tensors[name], (state[name] + np.float32(0.5)).astype(np.float16)
    )
    assert tensors["betas"].dtype == np.float32


def test_half_precision_files_become_float32(tiny, tmp_path):
    config, state = tiny
    half = {
        name: value.astype(np.float16) if value.ndim else value
        for name, value in state.items()
    }
    file = save(half, tmp_path / "half.ckpt", "zip")
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    assert report.dtypes["float16"] == len(half) - 3
    params = trees.flatten(checkpoints.load_item(tmp_path / "run", "params"))
    assert {leaf.dtype for leaf in params.values()} == {np.dtype(np.float32)}
    bias = half["model.diffusion_model.out.2.bias"].astype(np.float32)
    np.testing.assert_array_equal(params["backbone/conv_out/bias"], bias)


def test_a_file_of_another_model_is_refused_by_name(tiny, tmp_path):
    churches = narrow(config_of("lsun_churches_f8"))
    file = save(synthetic.state_dict(churches), tmp_path / "model.safetensors")
    candidates = {
        "ffhq_f4": lambda: narrow(config_of("ffhq_f4")),
        "lsun_churches_f8": lambda: churches,
    }
    with pytest.raises(ValueError, match="is not tiny: .*--model=lsun_churches_f8$"):
        importing.import_checkpoint(
            file, tiny[0], tmp_path / "run", name="tiny", candidates=candidates
        )
    assert list(tmp_path.iterdir()) == [file]


def test_missing_and_superfluous_weights_are_named(tiny, tmp_path):
    config, state = tiny
    changed = dict(state)
    del changed["model.diffusion_model.out.2.bias"]
    changed["model.control.weight"] = np.zeros(3, np.float32)
    file = save(changed, tmp_path / "model.safetensors")
    with pytest.raises(ValueError) as error:
        importing.import_checkpoint(file, config, tmp_path / "run")
    assert "1 only in the file: model.control.weight" in str(error.value)
    assert "1 only in the model: model.diffusion_model.out.2.bias" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_is_suspicious_is_a_warning(tiny, tmp_path):
    config, state = tiny
    state = dict(state)
    state["betas"] = state["betas"] * 2
    del state["scale_factor"]
    bias = "model.diffusion_model.out.2.bias"
    state[bias] = np.full_like(state[bias], np.nan)
    file = save(state, tmp_path / "model.safetensors")
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    scale, schedule, nonfinite = report.warnings
    assert "scale_factor" in scale
    assert "noise schedule" in schedule
    assert "params/backbone/conv_out/bias" in nonfinite
    found = inspecting.inspect(file, {"tiny": lambda: config}, check_values=True)
    assert bias in found.warnings[0]


def test_a_given_latent_scale_that_differs_is_a_warning(tiny, tmp_path):
    config, state = tiny
    config = config.copy_and_resolve_references()
    config.latent.update({"scale": 0.18215, "scale_by_std": False})
    file = save(state, tmp_path / "model.safetensors")
    report = importing.import_checkpoint(file, config, tmp_path / "run")
    assert "0.7261 in the file and 0.18215" in report.warnings[0]
    stored = checkpoints.load_item(tmp_path / "run", "collections")["latent_scale"]
    assert stored == np.float32(0.7261)


def test_steps_come_from_the_average_if_nothing_else_says(tiny, tmp_path):
    config, state = tiny
    path = tmp_path / "model.safetensors"
    write_safetensors(path, synthetic.lazily(state))
    assert importing.import_checkpoint(path, config, tmp_path / "run").step == 123


@pytest.fixture(scope="module")
def command():
    """`convert.py` as a module: its flags are defined once.

    Some have the names of flags of other commands, which other tests import.
    """
    for name in flags.FLAGS:
        flags.FLAGS[name].allow_override = True
    spec = importlib.util.spec_from_file_location("convert", ROOT / "convert.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(command, capsys, **flags):
    with flagsaver.flagsaver(**{name: str(value) for name, value in flags.items()}):
        command.main()
    return capsys.readouterr().out


def test_the_command_imports_and_exports(command, capsys, tiny, tiny_file, tmp_path):
    file = save(tiny[1], tmp_path / "model.ckpt", "zip")
    out = call(
        command,
        capsys,
        input=file,
        model=tiny_file,
        output=tmp_path / "run",
    )
    assert "torch zip" in out and "only in file" in out
    back = tmp_path / "out" / "back.safetensors"
    call(command, capsys, input=tmp_path / "run", format="compvis", output=back)
    assert_same_file(back, tiny[1])


def test_the_command_says_what_a_file_is(command, capsys, monkeypatch, tmp_path):
    config = config_of("autoencoder.vq_f4_noattn")
    state = {
        name: np.zeros(target.torch_shape, np.float16)
        for part in describing.describe(config).parts
        for name, target in part.targets.items()
        if part.group == "autoencoder"
    }
    file = save(state, tmp_path / "model.safetensors")
    with flagsaver.flagsaver(inspect=True):
        out = call(command, capsys, input=file)
    assert "autoencoder/vq_f4_noattn" in out
    assert "float16" in out and "53,219,486 parameters" in out
    assert "only in model" in out and "EMA" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--input=no/such.ckpt", "--inspect"), "no/such.ckpt"),
        (("--input=x.ckpt", "--output=y", "--format=zip"), "format"),
        ((), "--input is missing"),
    ],
)
def test_mistakes_end_in_one_sentence_and_exit_code_2(arguments, says):
    result = subprocess.run(
        [sys.executable, "convert.py", *arguments],
        cwd=ROOT,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2, result.stderr
    assert says in result.stderr and "Traceback" not in result.stderr


def test_existing_outputs_are_left_alone(
    command, capsys, tiny, tiny_file, tiny_run, tmp_path
):
    file = save(tiny[1], tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is there already"):
        call(command, capsys, input=file, model=tiny_file, output=tiny_run)
    with pytest.raises(ValueError, match="is there already"):
        call(command, capsys, input=tiny_run, format="compvis", output=file)
    with pytest.raises(ValueError, match="is a workdir of this library"):
        call(command, capsys, input=tiny_run, output=tmp_path / "x")
    with pytest.raises(ValueError, match="names no config"):
        call(command, capsys, input=file, model="no_such", output=tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_diffusers_folder_goes_out_and_comes_back(tmp_path):
    config = narrow(config_of("sd_v1"))
    file = save(synthetic.state_dict(config, with_ema=True), tmp_path / "a.safetensors")
    importing.import_checkpoint(file, config, tmp_path / "run")
    folder = importing.export_checkpoint(
        tmp_path / "run", "diffusers", tmp_path / "folder"
    )
    assert (folder / "tokenizer").is_dir() and (folder / "model_index.json").is_file()
    candidates = {"sd_v1": lambda: narrow(config_of("sd_v1"))}
    found = inspecting.inspect(folder, candidates)
    assert found.format == "diffusers" and found.models == ("sd_v1",)
    importing.import_diffusers(folder, tmp_path / "again", candidates=candidates)
    model = ldm_jax.load(tmp_path / "again")
    assert model.tokenizer(["a cat"]).shape == (1, 77)
    averaged = checkpoints.load_params(tmp_path / "run", item="ema")
    first_stage = checkpoints.load_params(tmp_path / "run" / "autoencoder")
    for group, tree in {**averaged, **first_stage}.items():
        jax.tree.map(np.testing.assert_array_equal, model.params[group], tree)
    other = narrow(config_of("sd_v2"))
    with pytest.raises(ValueError, match="is another model"):
        importing.import_diffusers(folder, tmp_path / "x", expected=other)


def test_a_first_stage_goes_to_diffusers_and_comes_back(tmp_path):
    config = config_of("autoencoder.kl_f8")
    config.autoencoder.update({"ch": 4, "num_groups": 2, "num_res_blocks": 1})
    file = save(synthetic.state_dict(config), tmp_path / "model.safetensors")
    importing.import_checkpoint(file, config, tmp_path / "run")
    folder = importing.export_checkpoint(tmp_path / "run", "diffusers", tmp_path / "d")
    report = importing.import_diffusers(folder, tmp_path / "again", expected=config)
    assert report.format == "diffusers"
    jax.tree.map(
        np.testing.assert_array_equal,
        checkpoints.load_item(tmp_path / "again", "params")["autoencoder"],
        checkpoints.load_item(tmp_path / "run", "params")["autoencoder"],
    )
