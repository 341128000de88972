"""Globals in published checkpoints beside their tensors, which are not wanted.

Training frameworks save the state of callbacks, optimizers and configs with the
weights. Such objects become `Inert`: their classes are neither imported nor run. Only
the names below load that way; everything else in a file is refused.
"""

from typing import Any

from ldm_jax.safe_pickle import INERT, Builder

# Any class of these packages: callbacks, AttributeDict, DictConfig, ...
_PACKAGES = (
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "pytorch_lightning",
    "torchmetrics",
)
_BUILTINS = (
    *("bool", "bytearray", "complex", "dict", "float", "frozenset", "int"),
    *("list", "object", "range", "set", "slice", "str", "tuple"),
)
_NUMPY_TYPES = (
    *("bool", "bool_", "float16", "float32", "float64", "int8", "int16", "int32"),
    *("int64", "str_", "uint8", "uint16", "uint32", "uint64"),
)
_NAMES = {
    "argparse": ("Namespace",),
    "builtins": _BUILTINS,
    "__builtin__": (*_BUILTINS, "long", "unicode"),  # as Python 2 and protocol 2 say it
    "collections": ("Counter", "deque"),
    "copyreg": ("_reconstructor",),
    "copy_reg": ("_reconstructor",),
    "datetime": ("date", "datetime", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "numpy": _NUMPY_TYPES,
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath",
                "PureWindowsPath"),
    "torch": ("Generator", "Size", "contiguous_format", "device", "preserve_format",
              "strided"),
    "torch.nn.modules.container": ("ParameterDict", "ParameterList"),
    "torch.serialization": ("_get_layout",),
    "typing": ("Any", "Dict", "List", "Optional", "Tuple", "Union"),
    "uuid": ("UUID",),
}  # fmt: skip
_TABLE: dict[tuple[str, str], Any] = {
    **{(module, name): INERT for module, names in _NAMES.items() for name in names},
    # A dict all the same: state dicts have been seen in one.
    ("collections", "defaultdict"): Builder(lambda *_: {}),
}


def find_stand_in(module: str, name: str) -> Any:
    """What stands for the global `module.name`.

    Raises:
      KeyError: it is not one of those that are known to be harmless.
    """
    if module.partition(".")[0] in _PACKAGES and name.isidentifier():
        return INERT
    return _TABLE[module, name]
