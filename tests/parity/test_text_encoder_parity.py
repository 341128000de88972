"""Text encoders against stored numbers of the reference, transformers and diffusers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioners import ClipText, TokenTransformer
from ldm_jax.interop.compvis_text import (
    HF_CLIP_RULES,
    OPEN_CLIP_RULES,
    join_in_proj,
    split_in_proj,
    token_transformer_rules,
)
from ldm_jax.interop.diffusers_text import (
    CLIP_TEXT_RULES,
    LDM_BERT_RULES,
    with_text_model_prefix,
)
from ldm_jax.interop.rename import export_state_dict, import_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"


def imported(conditioner, state, rules, tokens, *, skipped=()):
    """Parameters from a torch state dict of which only `skipped` is left over."""
    template = jax.eval_shape(conditioner.init, jax.random.key(0), {"tokens": tokens})
    params, unused, missing = import_state_dict(state, rules, template["params"])
    assert not missing and set(unused) == set(skipped)
    return params


def encode(conditioner, params, tokens):
    out = jax.jit(conditioner.apply)({"params": params}, {"tokens": tokens})
    return np.asarray(out.tokens)


def relative_error(ours, theirs):
    """The largest difference, in parts of the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def numpy_state(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def random_ids(vocab_size, length, batch_size=2):
    """Random ids that close with the largest one, at a different place in each row."""
    ids = np.random.default_rng(0).integers(0, vocab_size - 2, (batch_size, length))
    ids[:, 0] = vocab_size - 2
    for row in range(batch_size):
        ids[row, length // 2 + row :] = vocab_size - 1
    return jnp.asarray(ids, jnp.int32)


def torch_ids(tokens):
    torch = pytest.importorskip("torch")
    return torch.tensor(np.asarray(tokens), dtype=torch.long)


def test_token_transformer_equals_the_stored_output_of_the_reference():
    stored = np.load(GOLDEN / "transformer_embedder.npz")
    state = {k[3:]: stored[k] for k in stored.files if k.startswith("sd/")}
    tokens = jnp.asarray(stored["in/tokens"], jnp.int32)
    conditioner = TokenTransformer(32, 2, vocab_size=50, max_length=12)
    rules = token_transformer_rules(2)
    skipped = ("transformer.to_logits.weight", "transformer.to_logits.bias")
    params = imported(conditioner, state, rules, tokens, skipped=skipped)
    assert relative_error(encode(conditioner, params, tokens), stored["out/z"]) < 1e-5


def ldm_bert_pair(width, layers, vocab_size, **fields):
    pytest.importorskip("torch")
    from torch_transformers import ldm_bert, randomised

    make_config, make_model = ldm_bert()
    config = make_config(
        d_model=width,
        encoder_layers=layers,
        encoder_ffn_dim=4 * width,
        vocab_size=vocab_size,
        use_cache=False,
        return_dict=True,
    )
    model = randomised(make_model(config))
    return model, TokenTransformer(width, layers, vocab_size=vocab_size, **fields)


def ldm_bert_error(width, layers, vocab_size):
    model, conditioner = ldm_bert_pair(width, layers, vocab_size)
    tokens = random_ids(vocab_size, 77)
    theirs = model(torch_ids(tokens), return_dict=True)[0].numpy()
    state = numpy_state(model)
    skipped = ("to_logits.weight", "to_logits.bias")
    params = imported(conditioner, state, LDM_BERT_RULES, tokens, skipped=skipped)
    return relative_error(encode(conditioner, params, tokens), theirs)


def test_token_transformer_equals_diffusers_ldm_bert():
    assert ldm_bert_error(width=48, layers=3, vocab_size=90) < 1e-5


def clip_pair(width, layers, heads, activation, vocab_size, *, pooled=False):
    pytest.importorskip("torch")
    from torch_transformers import import_transformers, randomised

    transformers = import_transformers()
    config = transformers.CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_act=activation,
        vocab_size=vocab_size,
        projection_dim=width,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    kind = "CLIPTextModelWithProjection" if pooled else "CLIPTextModel"
    model = randomised(getattr(transformers, kind)(config))
    conditioner = ClipText(
        width=width,
        num_layers=layers,
        num_heads=heads,
        activation=activation,
        vocab_size=vocab_size,
    )
    return model, conditioner


def clip_errors(width, layers, heads, activation, vocab_size):
    """Of the last output, and of the one before through the same norm."""
    model, conditioner = clip_pair(width, layers, heads, activation, vocab_size)
    tokens = random_ids(vocab_size, 77)
    out = model(torch_ids(tokens), output_hidden_states=True)
    penultimate = model.final_layer_norm(out.hidden_states[-2])
    state = with_text_model_prefix(numpy_state(model))
    del model
    params = imported(conditioner, state, CLIP_TEXT_RULES, tokens)
    return {
        "last": relative_error(
            encode(conditioner, params, tokens), out.last_hidden_state.numpy()
        ),
        "penultimate": relative_error(
            encode(conditioner.clone(output="penultimate"), params, tokens),
            penultimate.numpy(),
        ),
    }


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_equals_transformers(activation):
    errors = clip_errors(
        width=32, layers=3, heads=4, activation=activation, vocab_size=60
    )
    assert max(errors.values()) < 1e-5, errors


def test_pooled_clip_equals_transformers_text_embedding():
    model, conditioner = clip_pair(32, 2, 4, "quick_gelu", 60, pooled=True)
    conditioner = conditioner.clone(output="pooled")
    tokens = random_ids(60, 77)
    theirs = model(torch_ids(tokens)).text_embeds.numpy()
    theirs /= np.linalg.norm(theirs, axis=-1, keepdims=True)
    params = imported(conditioner, numpy_state(model), CLIP_TEXT_RULES, tokens)
    assert relative_error(encode(conditioner, params, tokens)[:, 0], theirs) < 1e-5


def test_openclip_names_lead_to_torchs_own_attention():
    """One block, its fused projection computed by torch.nn.MultiheadAttention."""
    torch = pytest.importorskip("torch")
    from torch_transformers import randomised

    width, heads, tokens = 32, 4, random_ids(60, 12)
    nn = torch.nn
    embedding = randomised(nn.Embedding(60, width))
    layer = randomised(
        nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
    )
    norm = randomised(nn.LayerNorm(width), seed=1)
    positions = torch.randn(12, width, generator=torch.Generator().manual_seed(2))
    mask = nn.Transformer.generate_square_subsequent_mask(12)
    with torch.no_grad():
        x = embedding(torch_ids(tokens)) + positions
        theirs = norm(layer(x, src_mask=mask, is_causal=True)).numpy()
    names = {
        "self_attn": "attn",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "linear1": "mlp.c_fc",
        "linear2": "mlp.c_proj",
    }
    state = {
        "model.token_embedding.weight": embedding.weight.numpy(),
        "model.positional_embedding": positions.numpy(),
        "model.ln_final.weight": norm.weight.numpy(),
        "model.ln_final.bias": norm.bias.numpy(),
    }
    for name, value in numpy_state(layer).items():
        module, _, rest = name.partition(".")
        state[f"model.transformer.resblocks.0.{names[module]}.{rest}"] = value
    conditioner = ClipText(
        width, 1, heads, vocab_size=60, max_length=12, activation="gelu"
    )
    params = imported(conditioner, split_in_proj(state), OPEN_CLIP_RULES, tokens)
    assert relative_error(encode(conditioner, params, tokens), theirs) < 1e-5
    again = join_in_proj(export_state_dict(params, OPEN_CLIP_RULES))
    assert set(again) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("has_prefix", [True, False])
def test_an_exported_clip_loads_in_transformers(tmp_path, has_prefix):
    model, conditioner = clip_pair(16, 2, 2, "quick_gelu", 40)
    tokens = random_ids(40, 77)
    params = imported(
        conditioner,
        with_text_model_prefix(numpy_state(model)),
        CLIP_TEXT_RULES,
        tokens,
    )
    state = export_state_dict(params, CLIP_TEXT_RULES)
    if not has_prefix:
        state = {name.removeprefix("text_model."): v for name, v in state.items()}
    from safetensors.numpy import save_file

    model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert (again.state_dict()[name] == value).all(), name


def test_an_exported_token_transformer_has_diffusers_names_and_values():
    model, conditioner = ldm_bert_pair(16, 2, 40)
    tokens = random_ids(40, 77)
    state = numpy_state(model)
    skipped = {"to_logits.weight", "to_logits.bias"}
    params = imported(conditioner, state, LDM_BERT_RULES, tokens, skipped=skipped)
    exported = export_state_dict(params, LDM_BERT_RULES)
    assert set(exported) == set(state) - skipped
    for name, value in exported.items():
        np.testing.assert_array_equal(value, state[name])


def test_compvis_and_diffusers_names_differ_by_a_prefix_alone():
    model, conditioner = clip_pair(16, 2, 2, "quick_gelu", 40)
    tokens = random_ids(40, 77)
    state = with_text_model_prefix(numpy_state(model))
    a = imported(conditioner, state, CLIP_TEXT_RULES, tokens)
    renamed = {f"transformer.{name}": value for name, value in state.items()}
    b = imported(conditioner, renamed, HF_CLIP_RULES, tokens)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.full
@pytest.mark.parametrize(
    ("width", "layers", "heads", "activation"),
    [(768, 12, 12, "quick_gelu"), (1024, 24, 16, "gelu")],
    ids=["ViT-L-14", "OpenCLIP-ViT-H-14"],
)
def test_clip_at_full_size_equals_transformers(width, layers, heads, activation):
    errors = clip_errors(width, layers, heads, activation, 49_408)
    print(f"relative errors at {width} x {layers}: {errors}")
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.full
def test_token_transformer_at_full_size_equals_diffusers_ldm_bert():
    error = ldm_bert_error(width=1280, layers=32, vocab_size=30_522)
    print(f"relative error at 1280 x 32: {error}")
    assert error < 1e-4
