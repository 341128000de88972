"""CLIP's text encoder on small widths; its numbers are in tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_parameters import random_variables

from ldm_jax import trees
from ldm_jax.conditioners import ClipText
from ldm_jax.data.tokenizers import load_tokenizer

END = 29


def small(**fields):
    return ClipText(
        **({"width": 16, "num_layers": 3, "num_heads": 2, "vocab_size": 30} | fields)
    )


def texts():
    """Two rows that close at positions 3 and 9, padded with the closing token."""
    ids = np.random.default_rng(0).integers(2, 28, (2, 77))
    ids[:, 0] = 28
    ids[0, 3:], ids[1, 9:] = END, END
    return {"tokens": jnp.asarray(ids, jnp.int32)}


def apply(conditioner, variables, batch):
    return jax.jit(conditioner.apply)(variables, batch).tokens


@pytest.mark.parametrize(
    ("fields", "num_params"),
    [
        ({"width": 768, "num_layers": 12, "num_heads": 12}, 123_060_480),
        # 354M of OpenCLIP without its text_projection and logit_scale.
        (
            {"width": 1024, "num_layers": 24, "num_heads": 16, "output": "penultimate"},
            352_984_064,
        ),
        ({"width": 1024, "num_layers": 23, "num_heads": 16}, 340_387_840),
    ],
)
def test_published_sizes(fields, num_params):
    tokens = jax.ShapeDtypeStruct((1, 77), jnp.int32)
    variables = jax.eval_shape(
        ClipText(**fields).init, jax.random.key(0), {"tokens": tokens}
    )
    assert trees.num_elements(variables) == num_params


def test_a_token_sees_only_those_before_it():
    conditioner, batch = small(), texts()
    variables = random_variables(conditioner, batch)
    a = apply(conditioner, variables, batch)
    changed = {"tokens": batch["tokens"].at[:, 5].set(1)}
    b = apply(conditioner, variables, changed)
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert (np.abs(a - b)[:, 5:].max(axis=-1) > 1e-6).all()


def test_penultimate_is_the_last_of_a_model_without_the_last_block():
    batch = texts()
    whole, short = small(output="penultimate"), small(num_layers=2)
    variables = random_variables(whole, batch)
    assert "block_2" in variables["params"]["encoder"]
    encoder = {
        k: v for k, v in variables["params"]["encoder"].items() if k != "block_2"
    }
    np.testing.assert_array_equal(
        apply(whole, variables, batch),
        apply(short, {"params": {"encoder": encoder}}, batch),
    )
    last = apply(small(), variables, batch)
    assert np.abs(last - apply(whole, variables, batch)).max() > 1e-3


def test_the_unused_block_costs_nothing_under_jit():
    def flops(conditioner):
        variables = jax.eval_shape(conditioner.init, jax.random.key(0), texts())
        compiled = jax.jit(conditioner.apply).lower(variables, texts()).compile()
        return compiled.cost_analysis()["flops"]

    used = flops(small(num_layers=2))
    assert flops(small(output="penultimate")) == pytest.approx(used, rel=0.01)


def test_pooled_is_one_token_of_unit_length_taken_where_the_text_closes():
    conditioner, batch = small(output="pooled"), texts()
    variables = random_variables(conditioner, batch)
    tokens = apply(conditioner, variables, batch)
    assert tokens.shape == (2, 1, 16)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=-1), 1, rtol=1e-5)
    params = variables["params"]
    hidden = apply(small(), {"params": {"encoder": params["encoder"]}}, batch)
    expected = hidden[np.arange(2), [3, 9]] @ params["projection"]["kernel"]
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(tokens[:, 0], expected, atol=1e-5)
    # What fills the row does not matter.
    other = {"tokens": jnp.where(jnp.arange(77) > 9, 0, batch["tokens"])}
    np.testing.assert_allclose(apply(conditioner, variables, other), tokens, atol=1e-6)


def test_the_null_condition_is_that_of_an_empty_text():
    null_tokens = tuple(load_tokenizer("clip")([""])[0].tolist())
    conditioner = small(vocab_size=49_408, num_layers=1, null_tokens=null_tokens)
    batch = {"tokens": jnp.asarray(load_tokenizer("clip")(["", "a cat"]))}
    variables = random_variables(conditioner, batch)
    null = conditioner.apply(variables, 2, method="null").tokens
    tokens = apply(conditioner, variables, batch)
    np.testing.assert_allclose(null[0], tokens[0], atol=1e-6)
    np.testing.assert_array_equal(null[0], null[1])
    assert np.abs(tokens[0] - tokens[1]).max() > 1e-3


def test_mistakes_are_one_sentence():
    def fails(match, **fields):
        with pytest.raises(ValueError, match=match):
            small(**fields).init(jax.random.key(0), texts())

    fails("num_heads=3 does not divide conditioner.width=16", num_heads=3)
    fails("output is 'first'; it must be one of", output="first")
    fails("activation is 'relu'; it must be one of", activation="relu")
