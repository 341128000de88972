"""Pickles of plain data from untrusted files: interpreted here, never executed.

`pickle` calls whatever a file names, and a single damaged opcode makes its C reader
allocate gigabytes (LONG_BINPUT names a memo slot). Here the standard library takes the
stream apart (`pickletools.genops`) and each opcode can only build containers; a global
is what the caller's table says, and anything else is refused, by name. Opcodes that
reach callables another way (INST, OBJ, EXT1, ...) are refused as well.
"""

import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from ldm_jax.safe_pickle import numpy_globals
from ldm_jax.safe_pickle.parts import (
    BrokenPickleError,
    Builder,
    FindGlobal,
    Inert,
    UnsafePickleError,
)

# Published checkpoints need a few hundred thousand; each costs at most ~200 bytes.
_MAX_OPCODES = 5_000_000


def load_plain(
    stream: BinaryIO,
    source: str,
    find_global: FindGlobal,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """The object that the pickle at the stream's position describes.

    Containers come back as dict (ordered), list, tuple and set.

    Args:
      stream: where reading past the end returns less, without allocating what was asked
        for (BytesIO and mmap do); left just behind the pickle.
      source: how error messages call the file.
      find_global: (module, name) -> a `Builder` or a constant; raises KeyError for what
        is not allowed.
      persistent_load: resolves persistent ids; without it they are an error.

    Raises:
      UnsafePickleError: names the first global that `find_global` does not know.
      BrokenPickleError: truncated or malformed.
    """
    machine = _Machine(source, find_global, persistent_load)
    try:
        return machine.run(stream)
    except (UnsafePickleError, BrokenPickleError):
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error) as error:
        detail = str(error).partition("\n")[0][:200]
        raise BrokenPickleError(f"its pickle is damaged: {detail}") from error


def load_numpy_pickle(file: BinaryIO, source: str) -> Any:
    """Containers of numpy arrays from a pickle; nothing in it can run.

    Raises:
      UnsafePickleError: names the first callable that is not numpy's array machinery.
      BrokenPickleError: truncated or malformed.
    """
    table = numpy_globals.NUMPY
    try:
        return load_plain(file, source, lambda module, name: table[module, name])
    except BrokenPickleError as error:
        raise BrokenPickleError(
            f"{source} is not a readable pickle of arrays ({error}): get it again"
        ) from error


class _Machine:
    """The pickle machine: a stack, the stacks below open marks, and a memo."""

    def __init__(self, source: str, find_global: FindGlobal, persistent_load):
        self.source = source
        self.find_global = find_global
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _LITERALS:
                self.stack.append(arg)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _HANDLERS:
                _HANDLERS[name](self, arg)
            else:
                raise UnsafePickleError(
                    f"refused the pickle opcode {name} in {self.source}, which no "
                    "checkpoint needs: get the file from a source that you trust"
                )
            if count >= _MAX_OPCODES:
                raise BrokenPickleError(f"its pickle has over {_MAX_OPCODES} opcodes")
        raise BrokenPickleError("its pickle is cut short")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def global_(self, module: str, name: str) -> None:
        try:
            self.stack.append(self.find_global(module, name))
        except KeyError:
            raise self.unsafe(module, name) from None

    def unsafe(self, module: str, name: str) -> UnsafePickleError:
        called = f"{module}.{name}"
        if not called.isprintable() or len(called) > 200:
            called = repr(called[:200])
        return UnsafePickleError(
            f"refused to load {called} from {self.source}: only tensors and plain "
            "values are read, so get the file from a source that you trust or save its "
            "state_dict alone"
        )

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, slot: int) -> None:
        self.stack.append(self.memo[slot])

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_marked(self, _: Any) -> None:
        self.pop_mark()

    def tuple_of_marked(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def list_of_marked(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def dict_of_marked(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_items(items)

    def frozenset_of_marked(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(_key, items)))

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise BrokenPickleError("its pickle appends to what is no list")

    def add_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(_key, items))
        elif not isinstance(target, Inert):
            raise BrokenPickleError("its pickle adds to what is no set")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif not isinstance(target, Inert):
            raise BrokenPickleError("its pickle sets items of what is no dict")

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def named_global(self, arg: str) -> None:
        module, name = arg.split(" ", 1)
        self.global_(module, name)

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise BrokenPickleError("its pickle names a global by what is no text")
        self.global_(module, name)

    def inst(self, arg: str) -> None:
        raise self.unsafe(*arg.split(" ", 1))

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Builder) or not isinstance(args, tuple):
            raise BrokenPickleError("its pickle calls what is no function")
        self.stack.append(function.build(*args))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert | dict):  # a dict's is a state_dict's `_metadata`
            return
        if not numpy_globals.set_state(target, state):
            raise BrokenPickleError("its pickle gives a state to what has none")

    def persistent(self, _: Any) -> None:
        if self.persistent_load is None:
            raise BrokenPickleError("its pickle refers to tensors outside it")
        self.stack.append(self.persistent_load(self.stack.pop()))


def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """What `collections.OrderedDict` builds: nothing, or a dict of pairs (Python 2)."""
    return {_key(key): value for key, value in pairs}


def _key(value: Any) -> Any:
    """`value` if hashing it is cheap: nested tuples can take for ever."""
    plain = (str, bytes, int, float, type(None), Builder, Inert)
    if isinstance(value, plain):
        return value
    if isinstance(value, tuple) and all(isinstance(item, plain) for item in value):
        return value
    raise BrokenPickleError(f"its pickle has a {type(value).__name__} as a key")


# Opcodes whose argument, as `pickletools` decodes it, is the value itself.
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, arg: None,
    "FRAME": lambda machine, arg: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_marked,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_of_marked,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of_marked,
    "DICT": _Machine.dict_of_marked,
    "FROZENSET": _Machine.frozenset_of_marked,
    "APPEND": lambda machine, _: machine.append_items([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_mark()),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": _Machine.named_global,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.inst,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.reduce),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
