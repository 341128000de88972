"""A page to play with a model: prompts, drawings, holes, samplers, seeds.

python app.py
python app.py --checkpoint=runs/emoji_f4 --port=7861

Opens on http://127.0.0.1:7860 and says so; Ctrl-C ends it. Needs Gradio:
pip install -e ".[app]".
"""

from absl import flags

from ldm_jax import config as config_lib

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Workdir of the trained model; the demo model if left out."
)
PORT = flags.DEFINE_integer("port", 7860, "Of the page, on this machine.", 1, 65535)
SHARE = flags.DEFINE_bool(
    "share", False, "A public address for 72 hours, through Gradio's servers."
)


def main() -> None:
    # After the flags, so that --help and a mistyped flag answer at once.
    from ldm_jax.app import serving

    serving.serve(CHECKPOINT.value, port=PORT.value, share=SHARE.value)


if __name__ == "__main__":
    config_lib.run_cli(main)
