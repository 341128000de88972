"""CompVis names of the label mapper, relative to `cond_stage_model.`."""

SPATIAL_RESCALER_RULES = ((r"channel_mapper", "channel_mapper", 4),)
