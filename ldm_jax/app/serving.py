"""From a checkpoint to a page that is served."""

import importlib.util

from ldm_jax.app.studio import Studio
from ldm_jax.features.search import cache_dir
from ldm_jax.training import compilation


def serve(checkpoint: str | None, *, port: int, share: bool) -> None:
    """Serve the page until Ctrl-C.

    Args:
      checkpoint: a workdir, or None for the demo model.
      port: on this machine.
      share: give it a public address as well.

    Raises:
      FileNotFoundError, ValueError: one sentence: no Gradio, no model, no free port.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError(
            'the page needs Gradio, which is not installed: pip install "ldm-jax[app]", '
            'or -e ".[app]" in a checkout'
        )
    from ldm_jax.app import page

    compilation.enable_compilation_cache(cache_dir() / "compiled")
    studio = Studio.open(checkpoint)
    print(studio.describe(), flush=True)
    blocks = page.build(studio)
    blocks.queue(default_concurrency_limit=1)
    try:
        blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=share,
            theme=page.theme(),
            css=page.CSS,
            footer_links=[],
        )
    except OSError as error:
        if "port" not in str(error):
            raise
        raise ValueError(f"port {port} is taken: give another with --port") from error
