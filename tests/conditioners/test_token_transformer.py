"""The text and layout encoder, and what all conditioners on token ids share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_parameters import random_variables

from ldm_jax import trees
from ldm_jax.conditioners import TokenTransformer

NULL = (1, 0, 0, 0, 0, 0)
SMALL = {"embed_dim": 16, "num_layers": 1, "vocab_size": 30, "max_length": 6}
SMALL |= {"num_heads": 2, "head_dim": 4}


def small(**fields):
    return TokenTransformer(**(SMALL | fields))


def batch_of(shape, field="tokens"):
    ids = np.random.default_rng(0).integers(2, 30, shape)
    return {field: jnp.asarray(ids, jnp.int32)}


def apply(conditioner, variables, batch, **kwargs):
    fn = functools.partial(conditioner.apply, **kwargs)
    return jax.jit(fn)(variables, batch).tokens


def test_tokens_have_the_width_and_length_and_the_field_is_named():
    conditioner = small(field="layout", null_tokens=NULL)
    batch = batch_of((3, 6), "layout")
    cond = jax.jit(conditioner.apply)(random_variables(conditioner, batch), batch)
    assert cond.tokens.shape == (3, 6, 16)
    assert cond.vector is None and cond.concat is None
    assert conditioner.fields == ("layout",) and conditioner.has_null
    assert not small().has_null


@pytest.mark.parametrize(
    ("fields", "length", "num_params"),
    [
        # The published checkpoints' `cond_stage_model` without the unused to_logits.
        ({"embed_dim": 1280, "num_layers": 32}, 77, 542_895_360),
        ({"embed_dim": 640, "num_layers": 32}, 77, 166_590_080),
        (
            {"embed_dim": 512, "num_layers": 16, "vocab_size": 8192, "max_length": 92},
            92,
            54_656_000,
        ),
    ],
)
def test_published_sizes(fields, length, num_params):
    conditioner = TokenTransformer(**fields)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    variables = jax.eval_shape(conditioner.init, jax.random.key(0), {"tokens": tokens})
    assert trees.num_elements(variables) == num_params


def test_every_token_sees_every_other_and_its_position():
    conditioner, batch = small(), batch_of((1, 6))
    variables = random_variables(conditioner, batch)
    tokens = batch["tokens"]
    for changed in (tokens.at[0, 5].set(1), tokens[:, ::-1]):
        a = apply(conditioner, variables, {"tokens": tokens})
        b = apply(conditioner, variables, {"tokens": changed})
        assert (np.abs(a - b).max(axis=-1) > 1e-6).all()


def test_embeddings_start_small_and_layers_at_torchs_default():
    conditioner = TokenTransformer(64, 1, vocab_size=2000)
    variables = jax.jit(conditioner.init)(jax.random.key(0), batch_of((1, 77)))
    params = variables["params"]["encoder"]
    for table in ("token_embedding", "position_embedding"):
        std = float(params[table]["embedding"].std())
        assert std == pytest.approx(0.02, rel=0.05)
    kernel = params["block_0"]["feed_forward"]["proj_in"]["kernel"]
    assert float(jnp.abs(kernel).max()) <= 1 / math.sqrt(64)
    assert float(kernel.std()) == pytest.approx(1 / math.sqrt(3 * 64), rel=0.05)
    assert "bias" not in params["block_0"]["self_attention"]["query"]
    assert "bias" in params["block_0"]["self_attention"]["out"]


def test_null_is_the_condition_of_the_null_tokens():
    conditioner, batch = small(null_tokens=NULL), batch_of((2, 6))
    variables = random_variables(conditioner, batch)
    null = conditioner.apply(variables, 3, method="null")
    same = apply(conditioner, variables, {"tokens": jnp.array([NULL] * 3)})
    assert null.tokens.shape == (3, 6, 16)
    np.testing.assert_allclose(null.tokens, same, atol=1e-6)


def test_rows_are_dropped_whole_at_the_given_rate_and_only_in_training():
    conditioner = small(null_tokens=NULL, drop_rate=0.2)
    batch = {"tokens": jnp.tile(batch_of((1, 6))["tokens"], (2000, 1))}
    variables = random_variables(conditioner, {"tokens": batch["tokens"][:1]})
    kept = apply(conditioner, variables, {"tokens": batch["tokens"][:1]})[0]
    null = conditioner.apply(variables, 1, method="null").tokens[0]
    streams = {"drop": jax.random.key(1)}
    out = apply(conditioner, variables, batch, train=True, rngs=streams)
    is_null = np.abs(out - null).max(axis=(1, 2)) < 1e-5
    is_kept = np.abs(out - kept).max(axis=(1, 2)) < 1e-5
    assert (is_null ^ is_kept).all()
    assert abs(is_null.mean() - 0.2) < 0.03
    apply(conditioner, variables, batch)  # needs no stream


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    batch = batch_of((2, 6))
    exact, half = small(), small(dtype=jnp.bfloat16)
    variables = random_variables(half, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    a, b = apply(exact, variables, batch), apply(half, variables, batch)
    assert b.dtype == jnp.bfloat16
    error = np.abs(a - b.astype(jnp.float32)).max()
    assert 0 < error < 0.05 * np.abs(a).max()


def test_recomputation_changes_no_name_and_no_gradient():
    batch = batch_of((2, 6))
    plain, remat = small(), small(remat="blocks")
    params = random_variables(plain, batch)["params"]
    assert (
        trees.flatten(params).keys()
        == trees.flatten(random_variables(remat, batch)["params"]).keys()
    )

    def gradient(conditioner):
        def loss(params):
            return jnp.sum(conditioner.apply({"params": params}, batch).tokens ** 3)

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(plain),
        gradient(remat),
    )


def test_an_id_past_the_table_shows():
    conditioner = small()
    variables = random_variables(conditioner, batch_of((1, 6)))
    tokens = apply(conditioner, variables, {"tokens": jnp.full((1, 6), 30)})
    assert np.isnan(tokens).all()


def test_mistakes_are_one_sentence():
    def fails(match, batch=None, **fields):
        batch = batch_of((1, 6)) if batch is None else batch
        with pytest.raises(ValueError, match=match):
            small(**fields).init(jax.random.key(0), batch)

    fails("'tokens' but the batch has only", {"image": jnp.zeros(1)})
    fails("got 7 tokens but has 6 positions", batch_of((1, 7)))
    fails("drop_rate is 2", drop_rate=2, null_tokens=NULL)
    fails("set those to the ids of an empty text", drop_rate=0.1)
    fails("holds 3 ids; it must hold conditioner.max_length=6", null_tokens=(1, 2, 3))
    fails("remat is 'all'; it must be one of", remat="all")
    with pytest.raises(ValueError, match="no null_tokens, so it cannot be guided"):
        small().apply(random_variables(small(), batch_of((1, 6))), 2, method="null")
