"""Retrieval from a source of pictures to a trained model and its samples.

The feature network is a small random CLIP, in a folder as transformers saves it.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import config as config_lib
from ldm_jax import loading, retrieving, run
from ldm_jax.conditioners import Precomputed
from ldm_jax.data.images import decode_pixels
from ldm_jax.data.sources import open_source
from ldm_jax.features.networks import find_network
from ldm_jax.retrieving import embedding, training
from ldm_jax.training import checkpoints
from tests.published_models import config_of, narrow
from tests.test_conditioned_runs import write_first_stage

pytest.importorskip("faiss")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.parity.torch_transformers import import_transformers, randomised

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
TEXT = TOWER | {"vocab_size": 49_408, "bos_token_id": 49_406, "eos_token_id": 49_407}
ROOT = Path(__file__).parents[1]
WIDTH, SIZE, COUNT = 32, 64, 16
DRAWN = 16  # pixels, of the tiny model
CONDITIONER = Precomputed(WIDTH, num_tokens=3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP whose embeddings of different pictures differ."""
    transformers = import_transformers()
    config = transformers.CLIPConfig(
        text_config=TEXT,
        vision_config=TOWER | {"image_size": 32, "patch_size": 8},
        projection_dim=WIDTH,
    )
    folder = tmp_path_factory.mktemp("clip")
    model = randomised(transformers.CLIPModel(config)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixteen emoji, every hundredth; `train` and `val`, twelve and four of them."""
    folder = tmp_path_factory.mktemp("pictures")
    emoji = open_source("emoji64")
    for number in range(COUNT):
        split = "val" if number % 4 == 3 else "train"
        (folder / split).mkdir(exist_ok=True)
        path = folder / split / f"{number:02d}.png"
        Image.fromarray(emoji[100 * number]["image"]).save(path)
    return folder


@pytest.fixture(scope="module")
def index(clip, pictures, tmp_path_factory):
    """An index of the training pictures."""
    output = tmp_path_factory.mktemp("indices") / "emoji"
    return retrieving.build_index(
        f"folder:{pictures}", f"clip:{clip}", output, image_size=SIZE
    )


def config_with(index, pictures):
    config = narrow(config_of("rdm_768"))
    config.conditioner.update({"embed_dim": WIDTH, "num_tokens": 3})
    config.backbone.update({"channel_mult": (1,), "attention_resolutions": ()})
    with config.unlocked():
        config.data.neighbors = str(index.folder)
        config.data.source = f"folder:{pictures}"
    config.autoencoder.ch_mult = (1, 1)
    config.data.image_size = DRAWN
    return config


def pixels_of(pictures, name):
    return decode_pixels((pictures / name).read_bytes())


def features(clip, pixels):
    network = find_network("clip", clip)
    x = np.asarray(jax.jit(network.apply)(network.params, pixels)["pool"])
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_an_index_holds_the_networks_embeddings_of_each_picture(clip, pictures, index):
    names = [f"train/{number:02d}.png" for number in range(COUNT) if number % 4 != 3]
    assert list(index.names) == names
    assert index.meta.network == "clip" and index.meta.network_path == str(clip)
    assert len(index.meta.weights_sha256) == 64 and index.meta.image_size == SIZE
    pixels = np.stack([pixels_of(pictures, name) for name in names])
    np.testing.assert_allclose(index.embeddings, features(clip, pixels), atol=2e-3)
    products = index.vectors(np.arange(12)) @ index.vectors(np.arange(12)).T
    assert (products - 2 * np.eye(12)).max() < 0.999  # no two are the same


def test_unreadable_pictures_are_left_out_and_failures_leave_nothing(
    clip, pictures, tmp_path
):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures / "train", folder)
    (folder / "01.png").write_bytes(b"not a picture")
    output = tmp_path / "index"
    built = retrieving.build_index(f"folder:{folder}", f"clip:{clip}", output)
    assert "01.png" not in built.names and built.meta.count == 11
    with pytest.raises(ValueError, match="is there already"):
        retrieving.build_index(f"folder:{folder}", f"clip:{clip}", output)
    with pytest.raises(ValueError, match="data.resize"):
        retrieving.build_index(
            f"folder:{folder}", f"clip:{clip}", tmp_path / "other", resize="none"
        )
    with pytest.raises(FileNotFoundError, match="no CLIP weights at nowhere"):
        retrieving.build_index(f"folder:{folder}", "clip:nowhere", tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "index"}


def test_patches_of_a_picture_share_its_name_and_differ(clip, pictures, tmp_path):
    settings = {"image_size": 32, "resize": "smallest_64", "num_patches": 3}
    source = f"folder:{pictures}"
    built, again = (
        retrieving.build_index(source, f"clip:{clip}", tmp_path / name, **settings)
        for name in ("one", "two")
    )
    assert built.meta.count == 36 and len(set(built.names)) == 12
    assert built.names[:4] == ("train/00.png",) * 3 + ("train/01.png",)
    assert built.meta.embeddings_sha256 == again.meta.embeddings_sha256
    assert len(np.unique(built.embeddings[:3], axis=0)) == 3
    look_up = retrieving.look_up_neighbors(
        config_with(built, pictures), CONDITIONER, open_source(source), tmp_path
    )
    for picture, rows in enumerate(np.load(look_up.table)):
        assert picture not in rows // 3


def refuse_to_embed(*_):
    raise AssertionError("pictures were embedded again")


def test_a_source_of_its_own_index_needs_no_network(
    index, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "embedder_of", refuse_to_embed)
    source = open_source(f"folder:{pictures}")
    config = config_with(index, pictures)
    look_up = retrieving.look_up_neighbors(config, CONDITIONER, source, tmp_path)
    products = index.vectors(np.arange(12)) @ index.vectors(np.arange(12)).T
    np.fill_diagonal(products, -2)
    expected = np.argsort(-products, axis=1)[:, :3]
    np.testing.assert_array_equal(np.load(look_up.table), expected)
    example = look_up(source[5], np.random.default_rng(0))
    np.testing.assert_array_equal(example["neighbors"], index.vectors(expected[5]))


def test_neighbors_of_other_pictures_are_found_once(
    clip, index, pictures, tmp_path, monkeypatch
):
    config = config_with(index, pictures)
    source = open_source(f"folder:{pictures}", split="val")
    look_up = retrieving.look_up_neighbors(config, CONDITIONER, source, tmp_path)
    names = [f"val/{number:02d}.png" for number in range(3, COUNT, 4)]
    queries = features(clip, np.stack([pixels_of(pictures, name) for name in names]))
    expected = np.argsort(-(queries @ index.vectors(np.arange(12)).T), axis=1)[:, :3]
    np.testing.assert_array_equal(np.load(look_up.table), expected)

    monkeypatch.setattr(training, "embedder_of", refuse_to_embed)
    again = retrieving.look_up_neighbors(config, CONDITIONER, source, tmp_path)
    assert again == look_up and again.table.parent == tmp_path / "neighbors"
    more = Precomputed(WIDTH, num_tokens=4)
    with pytest.raises(AssertionError, match="embedded again"):
        retrieving.look_up_neighbors(config, more, source, tmp_path)


def refused(match, kind, call):
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_index_that_does_not_suit_is_named(index, pictures, tmp_path):
    config = config_with(index, pictures)
    source = open_source(f"folder:{pictures}", split="val")

    def look_up(conditioner=CONDITIONER):
        return retrieving.look_up_neighbors(config, conditioner, source, tmp_path)

    wide = Precomputed(768, num_tokens=3)
    says = r"embeddings of 32 numbers \(clip\), but config.conditioner.embed_dim is 768"
    refused(says, ValueError, lambda: look_up(wide))
    many = Precomputed(WIDTH, num_tokens=20)
    refused("has 12 rows, which do not leave 20", ValueError, lambda: look_up(many))
    config.data.neighbors = str(tmp_path)
    refused("holds no retrieval index", FileNotFoundError, look_up)
    config.data.neighbors = ""
    refused("config.data.neighbors is empty", ValueError, look_up)


def test_another_network_than_the_indexs_is_named(index, tmp_path):
    def embedder(**changes):
        meta = dataclasses.replace(index.meta, **changes)
        return embedding.embedder_of(dataclasses.replace(index, meta=meta))

    missing = str(tmp_path / "gone")
    refused("gone, which are not there", FileNotFoundError,
            lambda: embedder(network_path=missing))  # fmt: skip
    refused("with other weights of clip", ValueError,
            lambda: embedder(weights_sha256="1" * 64))  # fmt: skip


def test_a_published_database_becomes_an_index(clip, tmp_path):
    rows = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    ids = np.array([f"picture {number // 2}" for number in range(9)])
    boxes = np.zeros((9, 4))
    for file, part in zip(files, (slice(0, 4), slice(4, 9)), strict=True):
        np.savez(file, embedding=rows[part], img_id=ids[part], patch_coords=boxes[part])
    output = tmp_path / "index"
    built = retrieving.import_published(files, f"clip:{clip}", output)
    assert built.names == tuple(ids) and built.meta.source == "published:a.npz,b.npz"
    assert built.search(rows[:1] / np.linalg.norm(rows[0]), 1).rows.item() == 0
    np.savez(files[0], embedding=rows, img_id=np.array([{}] * 9, object))  # pickled
    built = retrieving.import_published(files[:1], f"clip:{clip}", tmp_path / "other")
    assert built.names[8] == "row 8"
    np.savez(files[0], other=rows)
    with pytest.raises(ValueError, match="a.npz is no published database"):
        retrieving.import_published(files[:1], f"clip:{clip}", tmp_path / "third")
    assert not (tmp_path / "third").exists()


@pytest.fixture
def retriever(index, pictures):
    return retrieving.open_retriever(config_with(index, pictures))


def test_a_picture_of_the_index_finds_itself_first(index, pictures, retriever):
    pixels = np.stack([pixels_of(pictures, f"train/{n:02d}.png") for n in (4, 9)])
    tokens = retriever.by_image(pixels)
    assert tokens.shape == (2, 3, WIDTH) and tokens.dtype == np.float32
    assert [names[0] for names in retriever.found(tokens)] == [
        "train/04.png",
        "train/09.png",
    ]
    larger = pixels.repeat(2, 1).repeat(2, 2)  # any size, here without its borders
    wide = np.pad(larger, [(0, 0), (0, 0), (30, 30), (0, 0)])
    assert retriever.found(retriever.by_image(wide))[0][0] == "train/04.png"


def test_the_query_comes_first_if_asked_for(clip, index, pictures, retriever):
    pixels = pixels_of(pictures, "val/03.png")[None]
    neighbors = retriever.by_image(pixels, 2)
    both = retriever.by_image(pixels, with_query=True)
    assert neighbors.shape == (1, 2, WIDTH) and both.shape == (1, 3, WIDTH)
    np.testing.assert_allclose(both[:, 0], features(clip, pixels), atol=1e-4)
    np.testing.assert_array_equal(both[:, 1:], neighbors)
    alone = retriever.by_image(pixels, 1, with_query=True)
    np.testing.assert_array_equal(alone, both[:, :1])


def test_rows_of_the_index_do_not_find_themselves(index, retriever):
    tokens = retriever.by_row([2, 11])
    names = retriever.found(tokens)
    assert index.names[2] not in names[0] and index.names[11] not in names[1]
    with pytest.raises(ValueError, match="has no row 12: give 0 to 11"):
        retriever.by_row([12])


def test_texts_are_queries_where_the_network_reads_them(index, pictures, retriever):
    from ldm_jax.evaluating.clip_scoring import text_embedder

    texts = ["a red apple", "two dogs"]
    both = retriever.by_text(texts, with_query=True)
    expected = text_embedder(index.meta.network_path)(texts)
    np.testing.assert_allclose(both[:, 0], expected, atol=1e-6)
    products = expected @ index.vectors(np.arange(12)).T
    best = [index.names[row] for row in products.argmax(axis=1)]
    assert [names[1] for names in retriever.found(both)] == best


def test_networks_without_a_text_half_say_so(clip, index, retriever, tmp_path):
    def by_text(**changes):
        meta = dataclasses.replace(index.meta, **changes)
        changed = dataclasses.replace(index, meta=meta)
        dataclasses.replace(retriever, index=changed).by_text(["a dog"])

    refused("made with efficientnet_lite0, which reads no text", ValueError,
            lambda: by_text(network="efficientnet_lite0"))  # fmt: skip
    transformers = import_transformers()
    kind = transformers.CLIPVisionModelWithProjection
    kind.from_pretrained(clip).save_pretrained(tmp_path)
    sha256 = find_network("clip", tmp_path).weights_sha256
    refused("has no text half", ValueError,
            lambda: by_text(network_path=str(tmp_path), weights_sha256=sha256))  # fmt: skip


def test_models_without_neighbors_have_no_retriever(index, pictures):
    config = narrow(config_of("ffhq_f4"))
    refused("takes no neighbours", ValueError,
            lambda: retrieving.open_retriever(config))  # fmt: skip
    config = config_with(index, pictures)
    config.conditioner.embed_dim = 8
    refused("embeddings of 32 numbers", ValueError,
            lambda: retrieving.open_retriever(config))  # fmt: skip


@pytest.mark.slow
def test_a_model_trains_on_neighbors_and_samples_by_a_picture(
    index, pictures, tmp_path
):
    config = config_with(index, pictures)
    config.optimizer.schedule = {"name": "constant"}
    config.train.update(
        {"num_steps": 2, "batch_size": 4, "learning_rate": 0.1, "log_every": 1,
         "preview_every": 0, "evaluate_every": 0, "ema_decay": 0.0}
    )  # fmt: skip
    # Two steps learn little: guidance shows it.
    config.sampler.update({"num_steps": 2, "guidance_scale": 50.0})
    config.data.num_validation = 4
    workdir = tmp_path / "run"
    shutil.copytree(index.folder, workdir / "index")
    config.data.neighbors = "index"  # relative to the workdir
    config.autoencoder.checkpoint = str(
        write_first_stage(tmp_path / "first_stage", config, "kl_f16")
    )
    config_lib.check(config)
    run.train(config, workdir, devices=jax.devices()[:1])
    tables = sorted((workdir / "neighbors").iterdir())
    assert [np.load(path).shape for path in tables] in ([(4, 3), (12, 3)],
                                                        [(12, 3), (4, 3)])  # fmt: skip
    assert checkpoints.load_params(workdir).keys() == {"backbone"}

    model = loading.load(workdir)
    retriever = retrieving.open_retriever(model.config, workdir)
    queries = np.stack([pixels_of(pictures, f"val/{n:02d}.png") for n in (3, 7)])
    neighbors = retriever.by_image(queries)
    drawn = model.sample(conditions={"neighbors": neighbors}, num_samples=2)
    assert drawn.shape == (2, DRAWN, DRAWN, 3)
    others = model.sample(conditions={"neighbors": -neighbors}, num_samples=2)
    assert np.mean(drawn != others) > 0.1
    np.testing.assert_array_equal(
        drawn, model.sample(conditions={"neighbors": neighbors}, num_samples=2)
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--network=clip:x", "--output=x"], "give either --source or --published"),
        (["--published=a.npz", "--network=clip:x", "--output=x", "--preview=x.png"],
         "--preview shows pictures"),
        (["--source=emoji64", "--output=x"], "--network is missing"),
    ],
)  # fmt: skip
def test_wrong_flags_of_the_tool_end_in_a_sentence(flags, says):
    tool = ROOT / "tools/build_retrieval_index.py"
    done = subprocess.run(
        [sys.executable, tool, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2 and says in done.stderr
    assert "Traceback" not in done.stderr
