"""Names of the CompVis class tables.

`embedding` relative to `cond_stage_model.`; `label_emb` relative to
`model.diffusion_model.`, where the table of `slot="vector"` lies.
"""

CLASS_LABEL_RULES = ((r"embedding", "embedding"), (r"label_emb", "embedding"))
