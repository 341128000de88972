"""The pickle machine: what it builds, and every way to a callable that it refuses."""

import copyreg
import io
import os
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest

from ldm_jax.safe_pickle import (
    INERT,
    BrokenPickleError,
    Builder,
    UnsafePickleError,
    load_numpy_pickle,
    load_plain,
    ordered_dict,
)

TABLE = {
    ("collections", "OrderedDict"): Builder(ordered_dict),
    ("harmless", "Thing"): INERT,
    ("constant", "seven"): 7,
}


def load(data, table=TABLE):
    return load_plain(io.BytesIO(data), "f.ckpt", lambda *name: table[name])


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """What `os.system` was called with: nothing, by the end of every test."""
    seen = []
    monkeypatch.setattr(os, "system", seen.append)
    yield seen
    assert not seen


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_at_every_protocol(protocol):
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 65536, 2**40, -(2**80), 1.5, float("inf")],
        "texts": ["", "é\n", "x" * 300],
        "constants": [True, False, None],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "nested": {1: {2: {}}, (1, "a"): shared},
        "shared": shared,
    }
    loaded = load(pickle.dumps(value, protocol))
    assert loaded == value
    assert loaded["shared"] is loaded["nested"][1, "a"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_ordered_dicts_with_attributes_are_dicts(protocol):
    value = OrderedDict(b=1, a=2)
    value._metadata = {"version": 1}
    loaded = load(pickle.dumps(value, protocol))
    assert type(loaded) is dict and list(loaded) == ["b", "a"]


def test_sets_and_bytes_come_back():
    value = [{1, 2}, frozenset("ab"), b"bytes"]
    assert load(pickle.dumps(value, 4)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_numpy_arrays_and_numbers_come_back(protocol):
    value = {
        "f4": np.arange(6, dtype="f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "number": np.float32(2.5),
    }
    data = pickle.dumps(value, protocol)
    loaded = load_numpy_pickle(io.BytesIO(data), "f")
    for name, expected in pickle.loads(data).items():
        assert loaded[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(loaded[name], expected)


@pytest.mark.parametrize("dtype", ["O", "V8", "U4", "M8[s]"])
def test_numpy_arrays_of_anything_but_numbers_are_refused(dtype):
    data = pickle.dumps(np.empty(2, dtype), 2)
    with pytest.raises(BrokenPickleError, match="f.pkl is not a readable pickle"):
        load_numpy_pickle(io.BytesIO(data), "f.pkl")


def short_text(text):
    return b"\x8c" + bytes([len(text)]) + text


CALL = b"S'true'\n\x85R."
REFUSED = {
    "REDUCE": b"cos\nsystem\n" + CALL,
    "REDUCE, protocol 4": b"\x80\x04" + short_text(b"os") + short_text(b"system") + b"\x93"
    + short_text(b"true") + b"\x85R.",
    "nothing is called": b"cos\nsystem\n.",
    "deep in a dict": b"}(S'a'\n](cos\nsystem\neu.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "NEWOBJ": b"cos\nsystem\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n)}\x92.",
    "a dotted name": b"\x80\x04" + short_text(b"collections")
    + short_text(b"OrderedDict.fromkeys") + b"\x93.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "eval of Python 2": b"c__builtin__\neval\n.",
    "a nested torch file": b"ctorch.storage\n_load_from_bytes\n.",
}  # fmt: skip


@pytest.mark.parametrize("way", REFUSED)
def test_every_global_that_is_not_allowed_is_refused(way):
    with pytest.raises(
        UnsafePickleError, match="refused to load .* from f.ckpt"
    ) as error:
        load(REFUSED[way])
    assert "\n" not in str(error.value)


def test_a_name_made_to_garble_the_message_is_quoted():
    with pytest.raises(UnsafePickleError, match=r"refused to load 'a\\x1b.*f.ckpt"):
        load(b"ca\x1b[2J\n" + b"b" * 10_000 + b"\n.")


@pytest.mark.parametrize("code", [b"\x82\xf0", b"\x83\xf0\0", b"\x84\xf0\0\0\0"])
def test_the_extension_registry_is_no_way_round(code):
    copyreg.add_extension("os", "system", 240)
    try:
        with pytest.raises(UnsafePickleError, match="opcode EXT"):
            load(code + CALL)
        copyreg._extension_cache[240] = os.system  # where pickle does not look names up
        with pytest.raises(UnsafePickleError, match="opcode EXT"):
            load(code + CALL)
    finally:
        copyreg._extension_cache.pop(240, None)
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize("opcode", [b"P0\n.", b"\x96" + struct.pack("<Q", 0) + b".",
                                    b"\x97.", b"\x98.", b"(2."])  # fmt: skip
def test_opcodes_that_no_checkpoint_has_are_refused(opcode):
    with pytest.raises(UnsafePickleError, match="refused the pickle opcode .* f.ckpt"):
        load(opcode)


BROKEN = {
    "nothing": b"",
    "no stop": b"\x80\x02}",
    "empty stack": b".",
    "calls a constant": b"cconstant\nseven\n)R.",
    "calls a text": b"S'os.system'\n)R.",
    "calls a container": b"}" + b")R.",
    "creates an object of a constant": b"cconstant\nseven\n)\x81.",
    "arguments that are no tuple": b"charmless\nThing\n]R.",
    "a state for a constant": b"cconstant\nseven\n}b.",
    "a state for a class": b"charmless\nThing\n}b.",
    "items of a text": b"S'a'\n(I1\nI2\nu.",
    "odd number of items": b"}(I1\nI2\nI3\nu.",
    "a dict as a key": b"}(}I2\nu.",
    "append without a list": b"I1\nI2\na.",
    "mark that is not open": b"I1\nt.",
    "unknown memo": b"h\x05.",
    "persistent id": b"S'a'\nQ.",
    "a global named by numbers": b"\x80\x04I1\nI2\n\x93.",
    "bytes past the end": b"B\xff\xff\xff\x7fabc.",
    "unknown opcode": b"\xff.",
    "not UTF-8": b"X\x01\0\0\0\xff.",
    "a number that is none": b"I1x\n.",
}


@pytest.mark.parametrize("way", BROKEN)
def test_what_makes_no_sense_is_an_error_of_one_kind(way):
    with pytest.raises(BrokenPickleError, match="pickle"):
        load(BROKEN[way])


def test_inert_objects_take_items_and_states_and_do_nothing():
    data = b"charmless\nThing\n(S'ab'\nS'c'\ntR}b(I1\nI2\nu(I1\neI1\na."
    assert type(load(data)).__name__ == "Inert"
    assert not hasattr(load(data), "__dict__")


def test_a_huge_memo_slot_costs_nothing():
    tracemalloc.start()
    assert load(b"]r\xff\xff\xff\x7fj\xff\xff\xff\x7f.") == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # the C reader takes 64 GB


def test_keys_that_take_for_ever_to_hash_are_refused():
    doubled = b")q\0"
    for slot in range(60):
        doubled += b"h%ch%c\x86q%c" % (slot, slot, slot + 1)
    start = time.monotonic()
    with pytest.raises(BrokenPickleError, match="as a key"):
        load(doubled + b"}h%cI1\ns." % 60)
    assert time.monotonic() - start < 1
