"""Names of the CompVis class embedder, relative to `cond_stage_model.`."""

CLASS_LABEL_RULES = ((r"embedding", "embedding"),)
