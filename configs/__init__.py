"""One file per model; `get_config()` returns a ConfigDict. Fields: docs/configs.md."""
