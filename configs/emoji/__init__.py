"""Every task on the demo's pictures, small enough for two CPU cores: `make tasks`."""
