"""What would fit where a program does not."""

from configs import ffhq_f4
from ldm_jax.compiling import fitting, report


def full(**changes):
    """A report of 8 GB of state and 2 GB a picture on a chip of 16 GB."""
    values = {
        "program": "train", "topology": "v5e:2x4", "num_devices": 8, "batch_size": 64,
        "fits": False, "memory": {"parameters": 1 << 31, "optimizer": 1 << 32},
        "peak_bytes": 24 << 30, "hbm_bytes": 16 << 30, "flops": 1e12, "xla_flops": None,
        "collectives": (), "optimal_seconds": None, "seconds": None,
        "exchange_seconds": None, "compile_seconds": 1.0, "peak_flops": 197e12,
    }  # fmt: skip
    return report.Report(**(values | changes))


def test_proposals_are_fsdp_then_remat_then_the_batch_that_a_model_says():
    proposed = list(fitting.proposals(ffhq_f4.get_config(), full()))
    split = {"mesh.fsdp": 8, "mesh.data": 1}
    assert proposed[0] == split
    assert proposed[1] == split | {"backbone.remat": "blocks"}
    # 8 GB are there at any batch, 16 GB are eight pictures': four of them fit.
    assert [changes["train.batch_size"] for changes in proposed[2:]] == [32, 16, 8]


def test_first_proposal_that_compiles_into_memory_is_taken():
    asked = []

    def compile_with(config):
        asked.append((config.mesh.fsdp, config.backbone.remat))
        return full(fits=config.backbone.remat == "blocks")

    config = ffhq_f4.get_config()
    found = fitting.first_that_fits(config, full(), compile_with, max_tries=3)
    assert found is not None and found[0]["backbone.remat"] == "blocks"
    assert asked == [(8, "none"), (8, "blocks")]
    assert (config.mesh.fsdp, config.backbone.remat) == (1, "none")
    expected = (
        "--config.mesh.fsdp=8 --config.mesh.data=1 --config.backbone.remat=blocks"
    )
    assert expected in fitting.advice(found, 3)
    found = fitting.first_that_fits(config, full(), compile_with, max_tries=1)
    assert "nothing that was tried (1 " in fitting.advice(found, 1)
