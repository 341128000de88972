"""From a command line to a checked ConfigDict, and from there to JSON and back.

A mistake of the user ends in one sentence on stderr and exit code 2, never in a
traceback; LDM_JAX_TRACEBACK=1 shows the traceback as well.
"""

# A ConfigDict's fields are dynamic.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import json
import logging as std_logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ldm_jax import shipped

TASKS = ("autoencoding", "denoising")
TOKENIZERS = ("none", "bert", "clip", "wordpiece", "layout")
TEXT_CONDITIONERS = ("token_transformer", "clip_text", "bert_text")
# Those that nothing but a text can feed, and their tokenizers.
READS_TEXT = {"clip_text": "clip", "bert_text": "bert"}
TOKEN_CONDITIONERS = (*TEXT_CONDITIONERS, "class_label", "precomputed")
# Their conditions are made of the very crop that is drawn.
PIXEL_CONDITIONERS = ("concat", "inpainting", "spatial_rescaler", "size_and_crop")

# Sections whose whole numbers are sizes, and those of them that may be 0.
NETWORKS = ("autoencoder", "adversarial", "backbone", "conditioner")
MAY_BE_ZERO = re.compile(r"adversarial\.disc_start|conditioner\.(\w+\.)?embed_dim")


def define_config_flag() -> flags.FlagHolder:
    """The flag `--config=FILE.py` with its overrides `--config.section.field=value`."""
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Model and run: a file under configs/. Any field can be overridden, as in "
        "--config.train.batch_size=8.",
        lock_config=True,
    )


def run_cli(main: Callable[[], None], required: tuple[str, ...] = ()) -> None:
    """Parse the flags, check that the `required` ones are given, and run `main()`."""

    def parse(argv: list[str]) -> list[str]:
        if any(arg in ("--help", "-help", "-h", "--helpfull") for arg in argv):
            app.usage(shorthelp=True, writeto_stdout=True)
            sys.exit(0)
        try:
            rest = flags.FLAGS(shipped.with_config_paths(argv))
        except (flags.Error, LookupError, AttributeError, ValueError, TypeError, OSError,
                ImportError, SyntaxError) as error:  # fmt: skip
            _fail(_flag_sentence(error))
        if len(rest) > 1:
            _fail(f"unexpected argument {rest[1]!r}: flags are written --name=value")
        for name in required:
            if not flags.FLAGS[name].value:
                _fail(f"--{name} is missing: see --help")
        return rest

    def guarded(_: list[str]) -> None:
        _log_plainly()
        try:
            main()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            sys.exit(report(error))

    app.run(guarded, flags_parser=parse)


def report(error: BaseException) -> int:
    """Say what ended a command: a mistake of the user's in one sentence, a bug in full.

    Returns:
      The exit code.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    is_mistake = isinstance(error, ValueError | TypeError | OSError)
    if isinstance(error, KeyboardInterrupt):
        sentence, code = "interrupted", 130
    elif is_mistake and ("\n" not in str(error).strip() or isinstance(error, OSError)):
        # A lost process is no mistake: the run is to be started again.
        is_lost = isinstance(error, ChildProcessError)
        sentence = " ".join(line.strip() for line in str(error).splitlines())
        code = 3 if is_lost else 2
    else:
        traceback.print_exception(error)
        return 1
    if os.environ.get("LDM_JAX_TRACEBACK"):
        traceback.print_exception(error)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return code


def _log_plainly() -> None:
    """Our own messages as plain lines; of the libraries, warnings only."""
    logging.set_verbosity(logging.WARNING)
    logger = std_logging.getLogger("ldm_jax")
    handler = std_logging.StreamHandler()
    handler.setFormatter(std_logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(std_logging.INFO)


def _flag_sentence(error: Exception) -> str:
    message = str(error.args[0] if error.args else error).strip()
    if isinstance(error, OSError):
        return f"cannot read the config file: {error}; see configs/ for those there are"
    if isinstance(error, KeyError | AttributeError):
        return f"no such config field: {message}; --dry_run prints all fields"
    return message.splitlines()[-1] if message else type(error).__name__


def _fail(sentence: str, code: int = 2) -> None:
    if os.environ.get("LDM_JAX_TRACEBACK"):
        traceback.print_exc()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


def check(config: ConfigDict) -> None:
    """Rules that join several fields.

    Raises:
      ValueError: one sentence that names the fields and how to mend them.
    """
    train, data = config.train, config.data
    if config.task not in TASKS:
        raise ValueError(f"config.task is {config.task!r}: it must be one of {TASKS}")
    for name in (
        "batch_size",
        "grad_accumulation",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        value = getattr(train, name)
        if value < 1:
            raise ValueError(f"config.train.{name} is {value}: it must be >= 1")
    if not 0 <= train.ema_decay < 1:
        raise ValueError(
            f"config.train.ema_decay is {train.ema_decay}: give 0 for no EMA, or a "
            "number below 1 such as 0.9999"
        )
    if data.num_validation < 1:
        raise ValueError(
            f"config.data.num_validation is {data.num_validation}: it must be >= 1; "
            "--config.train.evaluate_every=0 leaves validation out"
        )
    if train.batch_size % train.grad_accumulation:
        raise ValueError(
            f"config.train.batch_size={train.batch_size} is not divisible by "
            f"config.train.grad_accumulation={train.grad_accumulation}: change one"
        )
    if train.precision not in ("float32", "bfloat16"):
        raise ValueError(
            f"config.train.precision is {train.precision!r}: float32 or bfloat16"
        )
    policy = train.get("on_nonfinite", "stop")
    if policy not in ("stop", "skip"):
        raise ValueError(f"config.train.on_nonfinite is {policy!r}: stop or skip")
    _check_sizes(config)
    factor = 2 ** (len(config.autoencoder.ch_mult) - 1)
    if data.image_size % factor:
        raise ValueError(
            f"config.data.image_size={data.image_size} is not divisible by the first "
            f"stage's downsampling factor {factor}: take a multiple of {factor}"
        )
    if config.task == "denoising":
        latent = config.latent
        if latent.scale_by_std and latent.scale != 1.0:
            raise ValueError(
                f"config.latent.scale={latent.scale} and config.latent.scale_by_std "
                "exclude each other: set the scale to 1.0 or scale_by_std to False"
            )
        _check_process(config.diffusion)
        _check_conditioner(config)


def _check_sizes(config: ConfigDict) -> None:
    """Widths, depths and factors of all networks, and the side of the pictures."""
    sections = {name: config[name] for name in NETWORKS if name in config}
    sizes = {"data.image_size": config.data.image_size, **dict(_leaves("", sections))}
    for name, value in sizes.items():
        least = 0 if MAY_BE_ZERO.fullmatch(name) else 1
        for number in value if isinstance(value, tuple | list) else (value,):
            if type(number) is int and number < least:
                raise ValueError(f"config.{name} is {value}: it must be >= {least}")
    for section, name in (("autoencoder", "ch_mult"), ("backbone", "channel_mult")):
        if section in config and not config[section].get(name, (1,)):
            raise ValueError(f"config.{section}.{name} is empty: give a factor a level")


def _leaves(prefix: str, tree: Mapping) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if hasattr(value, "items"):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def conditioner_parts(config: ConfigDict) -> list[Any]:
    """The sections of all conditioners: none, one, or those of a `compose`."""
    section = config.conditioner
    if section.name == "none":
        return []
    if section.name != "compose":
        return [section]
    return [part for _, part in section.items() if isinstance(part, ConfigDict)]


def _check_process(diffusion: Mapping) -> None:
    """What the denoiser predicts against where the schedule ends."""
    schedule = diffusion["schedule"]
    rescaled = schedule.get("zero_terminal_snr", False)
    if diffusion["prediction"] == "eps" and (
        rescaled or schedule["name"] == "rectified_flow"
    ):
        ends = "zero_terminal_snr=True" if rescaled else "name='rectified_flow'"
        raise ValueError(
            f"config.diffusion.schedule.{ends} ends in pure noise, from which "
            "config.diffusion.prediction='eps' says nothing of the data: set the "
            "prediction to v, x0 or velocity"
        )


def _check_conditioner(config: ConfigDict) -> None:
    """The conditioner against the denoiser, the tokenizer and guidance."""
    parts = conditioner_parts(config)
    names = [part["name"] for part in parts]
    tokenizer = (config.get("tokenizer") or {"name": "none"})["name"]
    if tokenizer not in TOKENIZERS:
        raise ValueError(
            f"config.tokenizer.name is {tokenizer!r}: it must be one of {TOKENIZERS}"
        )
    if tokenizer != "none" and not set(names) & set(TEXT_CONDITIONERS):
        raise ValueError(
            f"config.tokenizer.name is {tokenizer!r} but config.conditioner "
            f"{config.conditioner.name!r} reads no text: set the tokenizer to none, or "
            f"the conditioner to {', '.join(TEXT_CONDITIONERS)}"
        )
    needs = [(name, READS_TEXT[name]) for name in names if name in READS_TEXT]
    if tokenizer == "none" and needs:
        raise ValueError(
            f"config.conditioner {needs[0][0]!r} reads text and config.tokenizer.name is "
            f"'none': set it to {needs[0][1]}"
        )
    gives_tokens = any(
        part["name"] in TOKEN_CONDITIONERS and part.get("slot") != "vector"
        for part in parts
    )
    if gives_tokens and config.backbone.get("attention", "plain") == "plain":
        raise ValueError(
            f"config.conditioner {config.conditioner.name!r} gives tokens, which "
            "config.backbone.attention='plain' cannot read: set it to 'transformer'"
        )
    _check_guidance(config, parts, has_text=tokenizer != "none")
    _check_cache(config, names)


def _check_guidance(config: ConfigDict, parts: list[Any], *, has_text: bool) -> None:
    scale = config.sampler.guidance_scale
    if scale != 1.0 and not any(_has_null(part, has_text) for part in parts):
        raise ValueError(
            f"config.sampler.guidance_scale={scale} needs a condition that can be left "
            f"out, which config.conditioner {config.conditioner.name!r} here has not: "
            "set it to 1.0, or give a class_label conditioner with has_null=True"
        )


def _check_cache(config: ConfigDict, names: list[str]) -> None:
    """A cached latent knows nothing of the pixels, nor of the crop it was made of."""
    if not config.latent.cache:
        return
    reads = [name for name in names if name in PIXEL_CONDITIONERS]
    if (config.get("tokenizer") or {"name": "none"})["name"] == "layout":
        reads.append("layout")
    if reads:
        raise ValueError(
            f"config.latent.cache keeps latents and no pictures, but the condition "
            f"{reads[0]!r} is made of each picture as it is cut: set "
            "--config.latent.cache=False"
        )


def _has_null(part: Mapping, has_text: bool) -> bool:
    if part["name"] in TEXT_CONDITIONERS:
        return has_text or part.get("null_tokens") is not None
    return part["name"] in TOKEN_CONDITIONERS and part.get("has_null", True)


def resolve(path: str, workdir: Path | None = None) -> Path:
    """A path that a config names: under `workdir` if it is there, else as it stands.

    So that a run which keeps what it needs in its own folder can be moved as a whole. What
    is in neither place may be one of the files that come along, as in `assets/minilm_l4`.
    """
    if workdir is not None and (workdir / path).exists():
        return workdir / path
    is_elsewhere = not Path(path).exists() and (shipped.root() / path).exists()
    return shipped.root() / path if is_elsewhere else Path(path)


def save(config: ConfigDict, path: Path) -> None:
    """Write the config as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(config.to_json_best_effort(indent=2) + "\n")
    temporary.replace(path)


def load(path: Path) -> ConfigDict:
    """Read a config written by `save`.

    Raises:
      FileNotFoundError, ValueError: one sentence if it is missing or no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {path.parent} is not a run of train.py; give a "
            "folder that holds config.json and checkpoints/"
        )
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it") from error
    _check_tree(path, tree)
    return ConfigDict(tree)


def _check_tree(path: Path, tree: Any) -> None:
    """What every config.json has, whichever version wrote it."""
    task = tree.get("task") if isinstance(tree, dict) else None
    if task not in list(TASKS):
        raise ValueError(
            f"{path} has the task {str(task)[:80]!r}, not one of {TASKS}: restore it"
        )
    needed = ["autoencoder", "data", "train"]
    if task == "denoising":
        needed += ["backbone", "conditioner", "diffusion", "latent", "sampler"]
    lost = [name for name in needed if not isinstance(tree.get(name), dict)]
    if lost:
        raise ValueError(f"{path} has no section {lost[0]!r}: restore it")


_WRONG_KIND = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """What fails for a value of another kind than expected is the fault of a file.

    For configs that were read from files: those of the command line are typed.
    """
    try:
        yield
    except _WRONG_KIND as error:
        # A section where a value should be is quoted over several lines.
        if isinstance(error, ValueError) and "\n" not in str(error).strip():
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not describe a model ({type(error).__name__}: {reason}): "
            "restore it"
        ) from error
