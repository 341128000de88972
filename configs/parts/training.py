"""The `train`, `optimizer`, `mesh` and `data` sections."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def train(*, num_steps: int, batch_size: int, learning_rate: float) -> ConfigDict:
    """Length, batch, rhythm. `learning_rate` is the rate used: never rescaled by batch."""
    return ConfigDict(
        {
            "num_steps": num_steps,
            "batch_size": batch_size,  # global, over all devices and processes
            "learning_rate": learning_rate,
            "grad_accumulation": 1,  # micro-batches per optimizer step
            "precision": "float32",  # of activations; parameters are always float32
            "ema_decay": 0.9999,  # 0 keeps no EMA
            "init": "torch",  # or unit_gain, for trainings of a few hundred steps
            "seed": 0,
            "log_every": 50,
            "preview_every": 5000,
            "evaluate_every": 5000,
            "checkpoint_every": 2500,
            "keep_checkpoints": 3,
            # A loss or gradient that is not finite: stop, or skip the step.
            "on_nonfinite": "stop",
            "max_skipped_in_a_row": 10,  # one after the other; then stop
        }
    )


def evaluation(*, metric: str) -> ConfigDict:
    """What is measured with a feature network while a model trains."""
    return ConfigDict(
        {
            "every": 0,  # steps; 0 never
            "metrics": (metric,),  # the best checkpoint by the first is kept in best/
            "network": "inception",  # or efficientnet_lite0, which pip can install
            "network_path": "",  # of its weights; searched for if empty
            "num_samples": 2048,  # drawn, or reconstructed
            "num_reference": 10_000,  # training pictures to compare samples with
        }
    )


def adam() -> ConfigDict:
    """Adam of the published first stages (betas 0.5, 0.9; no weight decay)."""
    return ConfigDict(
        {
            "name": "adam",
            "b1": 0.5,
            "b2": 0.9,
            "eps": 1e-8,
            "max_grad_norm": placeholder(float),  # None never clips
            "schedule": {"name": "constant"},
        }
    )


def adamw() -> ConfigDict:
    """AdamW with torch's defaults, as every published LDM (decay on all parameters)."""
    return ConfigDict(
        {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "max_grad_norm": placeholder(float),
            "schedule": {"name": "constant"},
        }
    )


def warmup(*, steps: int) -> ConfigDict:
    """A linear rise over `steps`, then the constant rate."""
    return ConfigDict(
        {
            "name": "lambda_linear",
            "warmup_steps": steps,
            "start_scale": 1e-6,
            "max_scale": 1.0,
            "min_scale": 1.0,
            "cycle_length": 1e13,
        }
    )


def mesh() -> ConfigDict:
    """Device mesh axes; -1 takes what is left."""
    return ConfigDict({"data": -1, "fsdp": 1})


def data(*, image_size: int, resize: str, crop: str, flip_rate: float) -> ConfigDict:
    """Where images come from and how they become squares of `image_size`."""
    return ConfigDict(
        {
            "source": "",  # folder:PATH | tfds:NAME | array_record:GLOB | emoji64
            "image_size": image_size,
            "resize": resize,
            "crop": crop,
            "flip_rate": flip_rate,
            "num_workers": 0,  # loader processes; 0 decodes in threads
            "num_validation": 1000,  # pictures of the split `val` to evaluate on
        }
    )
