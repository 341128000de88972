import pytest

from ldm_jax.evaluation.protocol import not_comparable

NETWORK = {"name": "inception", "is_published": True}
SAMPLES = {
    "count": 50_000,
    "image_size": [256, 256],
    "number_format": "uint8",
    "resize": "smallest",
}
REFERENCE = {
    "count": 70_000,
    "source_count": 70_000,
    "image_size": [256, 256],
    "split": "train",
    "resize": "smallest",
}


def reasons(network=(), samples=(), reference=()):
    return not_comparable(
        {
            "network": NETWORK | dict(network),
            "samples": SAMPLES | dict(samples),
            "reference": REFERENCE | dict(reference),
        }
    )


def test_the_papers_protocol_is_comparable():
    assert reasons() == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"network": {"name": "efficientnet_lite0"}}, "features are those of effic"),
        ({"network": {"is_published": False}}, "not the published ones"),
        ({"samples": {"count": 10_000}}, "10,000 samples instead of 50,000"),
        ({"samples": {"number_format": "uint8, lossy files"}}, "compressed with loss"),
        ({"samples": {"number_format": "uint8, rounded"}}, "truncate"),
        ({"samples": {"image_size": [64, 64]}}, "pictures of 256x256, the samples of"),
        ({"samples": {"resize": "square_bicubic"}}, "resized with 'smallest'"),
        ({"reference": {"image_size": None}}, "does not say how it was made"),
        ({"reference": {"split": "val"}}, "the split 'val'"),
        ({"reference": {"count": 10_000}}, "10,000 of the 70,000 training pictures"),
    ],
)
def test_every_difference_is_named_alone(changed, says):
    found = reasons(**changed)
    assert len(found) == 1 and says in found[0], found


def test_first_stages_are_measured_on_imagenets_validation_pictures():
    protocol = {"network": NETWORK, "autoencoder": {}, "samples": dict(SAMPLES)}
    assert not_comparable(protocol) == []
    protocol["samples"]["count"] = 170
    assert "170 pictures of 256x256" in not_comparable(protocol)[0]
