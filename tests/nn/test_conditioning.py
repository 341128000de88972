"""Conditioning: merge, stack and replacement by slot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.conditioning import Conditioning, merge, replace_examples, stack


def _ones(*shape):
    return jnp.ones(shape)


def test_merge_joins_each_slot_in_its_own_way():
    a = Conditioning(
        tokens=_ones(2, 3, 8), concat=_ones(2, 4, 4, 1), vector=_ones(2, 5)
    )
    b = Conditioning(
        tokens=_ones(2, 1, 8), concat=_ones(2, 4, 4, 3), vector=2 * _ones(2, 5)
    )
    both = merge(a, b)
    assert both.tokens.shape == (2, 4, 8)
    assert both.concat.shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(both.vector, 3 * np.ones((2, 5)))  # a sum


def test_merge_keeps_the_order_and_passes_lone_slots_through():
    a = Conditioning(concat=jnp.zeros((1, 2, 2, 1)))
    b = Conditioning(concat=jnp.ones((1, 2, 2, 1)), tokens=_ones(1, 3, 2))
    both = merge(a, b)
    np.testing.assert_array_equal(both.concat[0, 0, 0], [0, 1])
    assert both.tokens.shape == (1, 3, 2) and both.vector is None


def test_merge_names_the_slot_and_shapes_that_do_not_fit():
    a, b = Conditioning(tokens=_ones(2, 3, 8)), Conditioning(tokens=_ones(2, 3, 4))
    with pytest.raises(
        ValueError, match=r"tokens of shapes \(2, 3, 8\) and \(2, 3, 4\)"
    ):
        merge(a, b)
    with pytest.raises(ValueError, match=r"vectors of shapes \(2, 5\) and \(2, 4\)"):
        merge(Conditioning(vector=_ones(2, 5)), Conditioning(vector=_ones(2, 4)))


def test_stack_puts_the_first_batch_first():
    a, b = Conditioning(vector=jnp.zeros((2, 3))), Conditioning(vector=_ones(2, 3))
    np.testing.assert_array_equal(stack(a, b).vector[:, 0], [0, 0, 1, 1])


def test_stack_refuses_a_condition_without_its_slot_or_of_other_length():
    a = Conditioning(tokens=_ones(2, 3, 8))
    with pytest.raises(ValueError, match="'tokens'"):
        stack(a, Conditioning())
    with pytest.raises(ValueError, match="cannot stack tokens"):
        stack(a, Conditioning(tokens=_ones(2, 4, 8)))


def test_stack_keeps_what_cannot_be_left_out():
    null = Conditioning(tokens=jnp.zeros((2, 1, 3)))
    map_ = jnp.arange(8.0).reshape(2, 2, 2, 1)
    both = stack(null, Conditioning(tokens=_ones(2, 1, 3), concat=map_))
    np.testing.assert_array_equal(both.tokens[:, 0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(both.concat, np.concatenate([map_, map_]))


def test_replace_examples_takes_the_masked_ones_from_a_broadcast_null():
    cond = Conditioning(tokens=_ones(3, 2, 4))
    null = Conditioning(tokens=jnp.zeros((1, 2, 4)))
    mixed = replace_examples(jnp.array([True, False, True]), cond, null)
    np.testing.assert_array_equal(mixed.tokens[:, 0, 0], [0, 1, 0])


def test_conditioning_is_a_pytree_whose_empty_slots_have_no_leaves():
    assert jax.tree.leaves(Conditioning()) == []
    doubled = jax.jit(lambda c: jax.tree.map(lambda x: 2 * x, c))(
        Conditioning(vector=_ones(1, 2))
    )
    np.testing.assert_array_equal(doubled.vector, [[2, 2]])
