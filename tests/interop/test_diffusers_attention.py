"""Separate and joint projections of plain attention."""

import numpy as np

from ldm_jax.interop.diffusers_attention import (
    join_qkv,
    rename_old_attention,
    split_qkv,
)
from ldm_jax.lazy_array import LazyArray


def state(*names, c=12):
    """Lazy random weights [c, c] and biases [c] that count how often they are read."""
    reads = []
    random = np.random.default_rng(0)

    def lazy(name, shape):
        value = random.normal(size=shape).astype(np.float32)

        def read():
            reads.append(name)
            return value

        return LazyArray(shape, value.dtype, read)

    arrays = {f"{n}.weight": lazy(f"{n}.weight", (c, c)) for n in names}
    return arrays | {f"{n}.bias": lazy(f"{n}.bias", (c,)) for n in names}, reads


PROJECTIONS = ("a.attentions.0.to_q", "a.attentions.0.to_k", "a.attentions.0.to_v")
HEADS = {"a.attentions.0": 3}


def test_the_joint_order_is_head_then_part_then_channel():
    separate, _ = state(*PROJECTIONS)
    weight = join_qkv(separate, HEADS)["a.attentions.0.qkv.weight"].read()
    by_head = weight.reshape(3, 3, 4, 12)  # [head part channel in]
    for part, name in enumerate(PROJECTIONS):
        rows = separate[f"{name}.weight"].read().reshape(3, 4, 12)
        np.testing.assert_array_equal(by_head[:, part], rows)


def test_split_undoes_join_and_nothing_is_read_before():
    separate, reads = state(*PROJECTIONS, "a.resnets.0.conv1")
    joint = join_qkv(separate, HEADS)
    assert "a.attentions.0.to_q.weight" not in joint
    again = split_qkv(joint, HEADS)
    assert not reads
    assert set(again) == set(separate)
    for name, array in separate.items():
        assert again[name].shape == array.shape
        np.testing.assert_array_equal(again[name].read(), array.read())


def test_a_layer_that_lacks_a_part_stays_as_it_is():
    separate, _ = state(*PROJECTIONS[:2])
    assert set(join_qkv(separate, HEADS)) == set(separate)


def test_only_attention_layers_have_old_names():
    names = {"a.attentions.0.query.weight", "mid.attentions.1.proj_attn.bias"}
    others = {"a.query.weight", "quantize.embedding.weight"}
    arrays = dict.fromkeys(names | others)
    assert set(rename_old_attention(arrays)) == others | {
        "a.attentions.0.to_q.weight",
        "mid.attentions.1.to_out.0.bias",
    }
