"""Names of the published first stages (without any `first_stage_model.` prefix).

The rules do not depend on the topology. Names under `loss.` (discriminator, LPIPS) match
no rule and come back as unused.
"""

_LEVEL = r"(encoder|decoder)\.(down|up)\.(\d+)"
_MIDDLE = r"(encoder|decoder)\.mid"

AUTOENCODER_RULES = (
    (_LEVEL + r"\.block\.(\d+)\.nin_shortcut", "{0}/{1}_{2}/block_{3}/shortcut"),
    (_LEVEL + r"\.(block|attn)\.(\d+)\.(\w+)", "{0}/{1}_{2}/{3}_{4}/{5}"),
    (_LEVEL + r"\.(downsample|upsample)\.conv", "{0}/{1}_{2}/{3}/conv"),
    (_MIDDLE + r"\.(block_1|attn_1|block_2)\.(\w+)", "{0}/mid/{1}/{2}"),
    (r"(encoder|decoder)\.(conv_in|norm_out|conv_out)", "{0}/{1}"),
    (r"(quant_conv|post_quant_conv)", "{0}"),
    (r"quantize\.embedding", "quantizer"),
)
