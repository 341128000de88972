"""BERT against transformers, from the same tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from ldm_jax.conditioners import BertText
from tests.parity.torch_transformers import import_transformers
from tools.prepare_sentence_encoder import bert_params


def test_hidden_states_are_those_of_transformers_and_padding_changes_nothing():
    transformers = import_transformers()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=20,
    )
    theirs = transformers.BertModel(config).eval()
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    params = bert_params(state, num_layers=2, num_positions=12, rows=list(range(40)))
    tokens = np.random.default_rng(0).integers(1, 40, (3, 12))
    tokens[0, 5:], tokens[1, 9:] = 0, 0
    mask = tokens != 0

    with torch.no_grad():
        hidden = theirs(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        ).hidden_states[2]
    expected = torch.nn.functional.layer_norm(hidden, (32,), eps=1e-6).numpy()

    module = BertText(width=32, num_layers=2, num_heads=4, vocab_size=40, max_length=12)
    ours = module.apply(
        {"params": {"encoder": params}}, {"tokens": jnp.asarray(tokens, jnp.int32)}
    )
    np.testing.assert_allclose(ours.tokens[mask], expected[mask], atol=2e-5)
    assert not np.asarray(ours.tokens)[~mask].any()


def test_the_pruned_table_gives_the_rows_that_were_kept():
    shapes = jax.eval_shape(
        BertText(width=8, num_layers=1, num_heads=2, vocab_size=6, max_length=3).init,
        jax.random.key(0),
        {"tokens": jnp.zeros((1, 3), jnp.int32)},
    )["params"]["encoder"]
    state = {
        "embeddings.word_embeddings.weight": np.arange(80.0).reshape(10, 8),
        "embeddings.position_embeddings.weight": np.ones((5, 8)),
        "embeddings.token_type_embeddings.weight": np.full((2, 8), 0.5),
        "embeddings.LayerNorm.weight": np.ones(8),
        "embeddings.LayerNorm.bias": np.zeros(8),
    }
    params = bert_params(state, num_layers=0, num_positions=3, rows=[9, 0, 1, 2, 3, 4])
    for name in ("token_embedding", "position_embedding", "norm_in"):
        ours = jax.tree.map(np.shape, params[name])
        assert ours == jax.tree.map(lambda leaf: leaf.shape, shapes[name])
    np.testing.assert_array_equal(
        params["token_embedding"]["embedding"][0],
        state["embeddings.word_embeddings.weight"][9],
    )
    np.testing.assert_array_equal(
        params["position_embedding"]["embedding"], np.full((3, 8), 1.5)
    )
