"""Names of the CompVis class tables.

`embedding` relative to `cond_stage_model.`; `label_emb` relative to
`model.diffusion_model.`, where the table of `slot="vector"` lies.
"""

CLASS_VECTOR_RULES = ((r"label_emb", "embedding"),)
CLASS_LABEL_RULES = ((r"embedding", "embedding"), *CLASS_VECTOR_RULES)
