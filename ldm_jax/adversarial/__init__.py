"""The patch discriminator of the first stages and its losses."""

from ldm_jax.adversarial.adaptive_weight import adaptive_weight as adaptive_weight
from ldm_jax.adversarial.losses import DISCRIMINATOR_LOSSES as DISCRIMINATOR_LOSSES
from ldm_jax.adversarial.losses import generator_loss as generator_loss
from ldm_jax.adversarial.patchgan import PatchDiscriminator as PatchDiscriminator
