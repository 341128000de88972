import io
import pickle

import pytest
from odd_images import encode, solid

from ldm_jax.data.sources import open_source
from ldm_jax.data.tfds_builders import _parse

tfds = pytest.importorskip("tensorflow_datasets")


class Colours(tfds.core.GeneratorBasedBuilder):
    """Sixteen pictures and four held out."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["dark", "light"]),
            "caption": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, manager):
        examples = self._generate_examples
        return {"train": examples(range(16)), "test": examples(range(16, 20))}

    def _generate_examples(self, numbers):
        for number in numbers:
            picture = encode(solid("RGB", (4, 6), (number * 10,) * 3), "PNG")
            yield (
                number,
                {
                    "image": io.BytesIO(picture),
                    "label": number % 2,
                    "caption": f"grey {number * 10}",
                },
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    builder = Colours(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare(file_format="array_record")
    return builder.data_path


def test_a_prepared_folder_is_read_without_tensorflow(folder):
    import sys

    source = pickle.loads(pickle.dumps(open_source(f"tfds:{folder}")))
    assert len(source) == 16 and source.class_names == ("dark", "light")
    for index in range(16):
        example = source[index]
        grey = int(example["image"][0, 0, 0])
        assert example["image"].shape == (6, 4, 3)
        assert example["caption"] == f"grey {grey}"
        assert example["class_label"] == grey // 10 % 2
    assert "tensorflow" not in sys.modules


def test_splits_are_named_or_found(folder):
    assert len(open_source(f"tfds:{folder}", split="val")) == 4
    assert len(open_source(f"tfds:{folder}", split="all")) == 20
    part = open_source(f"tfds:{folder}:train[:25%]", split="val")
    assert len(part) == 4
    assert part.fingerprint() != open_source(f"tfds:{folder}").fingerprint()
    with pytest.raises(ValueError, match="no dev split: add one of"):
        open_source(f"tfds:{folder}", split="dev")
    with pytest.raises(ValueError, match="cannot be read"):
        open_source(f"tfds:{folder}:nowhere")


def test_an_unprepared_set_says_how_to_prepare_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for name in ("no_such_dataset", tmp_path):
        with pytest.raises(FileNotFoundError, match="download_and_prepare") as caught:
            open_source(f"tfds:{name}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("cifar10", ("cifar10", "")),
        ("cifar10:test", ("cifar10", "test")),
        ("cifar10:3.0.2", ("cifar10:3.0.2", "")),
        ("lsun/cat:3.0.2:train[:50%]", ("lsun/cat:3.0.2", "train[:50%]")),
    ],
)
def test_a_version_is_no_split(rest, expected):
    assert _parse(rest) == expected
