"""Class table and map conditioners."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioners import CONDITIONERS, ClassLabel, Concat

LABELS = {"class_label": jnp.array([0, 4, 2], jnp.int32)}


def _init(conditioner, batch=LABELS):
    return conditioner.init(jax.random.key(0), batch)


def test_tokens_are_the_rows_of_the_table():
    conditioner = ClassLabel(num_classes=5, embed_dim=8)
    variables = _init(conditioner)
    table = variables["params"]["embedding"]["embedding"]
    cond = conditioner.apply(variables, LABELS)
    assert table.shape == (6, 8) and cond.tokens.shape == (3, 1, 8)
    np.testing.assert_array_equal(cond.tokens[:, 0], table[np.array([0, 4, 2])])


def test_vector_slot_has_no_token_axis():
    conditioner = ClassLabel(num_classes=5, embed_dim=8, slot="vector")
    cond = conditioner.apply(_init(conditioner), LABELS)
    assert cond.vector.shape == (3, 8) and cond.tokens is None


def test_null_is_the_last_row():
    conditioner = ClassLabel(num_classes=5, embed_dim=8)
    variables = _init(conditioner)
    null = conditioner.apply(variables, 4, method="null")
    last = variables["params"]["embedding"]["embedding"][-1]
    np.testing.assert_array_equal(null.tokens, np.broadcast_to(last, (4, 1, 8)))


def test_published_tables_have_their_sizes():
    # cin256-v2: 1001 x 512; cin256: 1000 x 512.
    for has_null, count in ((True, 512_512), (False, 512_000)):
        conditioner = ClassLabel(num_classes=1000, embed_dim=512, has_null=has_null)
        shapes = jax.eval_shape(lambda c=conditioner: _init(c))
        assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_table_is_initialised_from_the_standard_normal():
    conditioner = ClassLabel(num_classes=999, embed_dim=64)
    table = _init(conditioner)["params"]["embedding"]["embedding"]
    assert abs(float(table.mean())) < 0.02 and abs(float(table.std()) - 1) < 0.02


def test_labels_are_dropped_at_the_given_rate_and_only_in_training():
    conditioner = ClassLabel(num_classes=3, embed_dim=4, drop_rate=0.2)
    variables = _init(conditioner)
    batch = {"class_label": jnp.zeros(4000, jnp.int32)}
    drop = {"drop": jax.random.key(1)}
    null = conditioner.apply(variables, 1, method="null").tokens
    kept = conditioner.apply(variables, batch)
    mixed = conditioner.apply(variables, batch, train=True, rngs=drop)
    is_null = np.all(mixed.tokens == null, axis=(1, 2))
    # Five standard deviations of a binomial with n = 4000, p = 0.2.
    assert abs(is_null.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    assert not np.any(np.all(kept.tokens == null, axis=(1, 2)))
    np.testing.assert_array_equal(mixed.tokens[~is_null], kept.tokens[~is_null])


def test_label_past_the_table_is_not_silently_another_class():
    conditioner = ClassLabel(num_classes=3, embed_dim=4)
    batch = {"class_label": jnp.array([7], jnp.int32)}
    assert np.all(np.isnan(conditioner.apply(_init(conditioner), batch).tokens))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slot": "adm"}, "conditioner.slot is 'adm'"),
        ({"drop_rate": 1.5}, "must lie in"),
        ({"drop_rate": 0.1, "has_null": False}, "has_null=True"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        _init(ClassLabel(num_classes=3, embed_dim=4, **fields))


def test_missing_field_and_missing_null_are_named():
    conditioner = ClassLabel(num_classes=3, embed_dim=4, has_null=False)
    with pytest.raises(ValueError, match="'class_label' but the batch has only"):
        conditioner.init(jax.random.key(0), {"image": jnp.zeros(1)})
    with pytest.raises(ValueError, match="no null class"):
        conditioner.apply(_init(conditioner, LABELS), 2, method="null")


def test_concat_hands_the_map_on_and_has_no_parameters():
    batch = {"low_res": jnp.ones((2, 4, 4, 3))}
    conditioner = Concat(field="low_res")
    variables = conditioner.init(jax.random.key(0), batch)
    assert jax.tree.leaves(variables) == []
    cond = conditioner.apply(variables, batch)
    np.testing.assert_array_equal(cond.concat, batch["low_res"])
    with pytest.raises(ValueError, match="guidance_scale=1"):
        conditioner.apply(variables, 2, method="null")


@pytest.mark.parametrize("name", sorted(CONDITIONERS))
def test_every_conditioner_keeps_the_contract(name):
    call = inspect.signature(CONDITIONERS[name].__call__).parameters
    assert list(call) == ["self", "batch", "train"]
    assert call["train"].kind is inspect.Parameter.KEYWORD_ONLY
    null = list(inspect.signature(CONDITIONERS[name].null).parameters.values())
    assert [parameter.name for parameter in null[:2]] == ["self", "batch_size"]
    # A composed one may need what its parts keep on both sides of guidance.
    assert all(parameter.default is None for parameter in null[2:])
