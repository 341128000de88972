"""CompVis names of the discriminator, below `loss.discriminator.`.

The convolutions and norms of `main` stand at 0, (2, 3), (5, 6), ...; the last
convolution follows the pattern, so one set of rules serves any number of layers.
"""

_MAX_LAYERS = 8

DISCRIMINATOR_RULES = (
    (r"main\.0", "conv_0"),
    *((rf"main\.{3 * n - 1}", f"conv_{n}") for n in range(1, _MAX_LAYERS + 1)),
    *((rf"main\.{3 * n}", f"norm_{n}") for n in range(1, _MAX_LAYERS + 1)),
)
