"""The page itself, in Gradio."""

# Gradio is an extra.
# pyright: reportMissingImports=false

import html
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ldm_jax.app import asking
from ldm_jax.app.studio import StoppedError, Studio
from ldm_jax.arrays import image_to_pixels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.stepwise import Progress

TITLE = "Latent diffusion"
EXAMPLES = ("a red apple, 3d", "smiling face with sunglasses, flat", "a blue car, 3d")
COLUMNS = {1: 1, 4: 2, 9: 3, 16: 4}
CANVAS = (448, 448)
NUM_FRAMES = 8  # of the film of what the model believed
_SECONDS_BETWEEN_LOOKS = 0.4  # decoding takes its time

CSS = """
.gradio-container {max-width: 1180px !important; margin: auto}
#title h1 {margin-bottom: 0}
#status {min-height: 2.4em}
#status .bar {height: 6px; border-radius: 3px; background: var(--border-color-primary);
  overflow: hidden; margin-top: 6px}
#status .bar div {height: 100%; background: var(--primary-500); transition: width .2s}
#status .error {color: #b91c1c; font-weight: 600}
#pictures img {object-fit: contain}
#film .grid-wrap {overflow: hidden}
#film .grid-container {grid-template-columns: repeat(8, minmax(0, 1fr)) !important}
footer {display: none !important}
"""


def theme() -> gr.Theme:
    """Of fonts that need no network."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    return gr.themes.Soft(primary_hue="indigo", font=fonts, font_mono=mono)


def build(studio: Studio) -> gr.Blocks:
    """The page of a studio; launch it with `theme` and `CSS`."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        about = gr.Markdown(studio.describe(), elem_id="about")
        with gr.Row():
            with gr.Column(scale=5):
                inputs = _inputs(studio)
                with gr.Row():
                    go = gr.Button("Draw", variant="primary", elem_id="draw")
                    stop = gr.Button("Stop", elem_id="stop")
                inputs |= _settings(studio)
                with gr.Accordion("Model", open=False):
                    checkpoint = gr.Textbox(
                        label="Workdir of a run, or folder of a released model",
                        placeholder="empty: the demo model",
                        elem_id="checkpoint",
                    )
                    load = gr.Button("Load", elem_id="load")
            with gr.Column(scale=6):
                status = gr.HTML(_said("ready"), elem_id="status")
                pictures = gr.Gallery(
                    show_label=False,
                    elem_id="pictures",
                    format="png",
                    height=520,
                    object_fit="contain",
                    allow_preview=True,
                )
                gr.Markdown("What the model took the first one for, on the way:")
                film = gr.Gallery(
                    show_label=False,
                    elem_id="film",
                    format="png",
                    columns=NUM_FRAMES,
                    rows=1,
                    height=96,
                    object_fit="contain",
                    allow_preview=False,
                )
        _connect(
            studio, inputs, go, stop, load, checkpoint, about, status, pictures, film
        )
    return page


def _connect(
    studio: Studio, inputs, go, stop, load, checkpoint, about, status, pictures, film
) -> None:
    """What happens when something is pressed."""
    names = {component: name for name, component in inputs.items()}

    def draw(given: Mapping[Any, Any]) -> Iterator[dict]:
        page = {name: given[component] for component, name in names.items()}
        for said, seen, frames in _drawn(studio, page):
            update: dict[Any, Any] = {status: said}
            if seen is not None:
                columns = COLUMNS.get(len(seen), 4)
                update[pictures] = gr.Gallery(seen, columns=columns)
            if frames is not None:
                update[film] = frames
            yield update

    def take(path: str) -> dict:
        try:
            studio.load(path.strip() or None)
        except Exception as error:  # noqa: BLE001 - all of them are told on the page
            return {status: _failed(error)}
        look = asking.look(studio.model)
        shown = {inputs[name]: gr.update(**change) for name, change in look.items()}
        return {status: _said("loaded"), about: studio.describe(), **shown}

    wanted = [go.click, inputs["prompt"].submit]
    gr.on(
        wanted,
        draw,
        set(names),
        [status, pictures, film],
        concurrency_limit=1,
        show_progress="hidden",
    )
    stop.click(studio.stop, queue=False)
    load.click(take, checkpoint, [status, about, *inputs.values()])
    start, sampler = inputs["start"], inputs["sampler"]
    starting = [inputs[name] for name in ("picture", "hole", "strength")]
    start.change(_of_start, start, starting, show_progress="hidden")
    sampler.change(_of_sampler, sampler, inputs["eta"], show_progress="hidden")


def _another_seed() -> int:
    return random.randrange(2**31)


def _of_start(start: str) -> list[dict]:
    """Which canvas is to be seen, and the strength."""
    is_picture, is_hole = start == asking.PICTURE, start == asking.HOLE
    return [gr.update(visible=shown) for shown in (is_picture, is_hole, is_picture)]


def _of_sampler(sampler: str) -> dict:
    return gr.update(visible=asking.takes_eta(sampler))


def _drawn(studio: Studio, page: Mapping[str, Any]) -> Iterator[tuple]:
    """(what to say, pictures or None, film or None) while drawing goes on."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield from _watched(studio, page, Path(folder))
        except StoppedError:
            yield _said("stopped"), None, None
        except Exception as error:  # noqa: BLE001 - all of them are told on the page
            yield _failed(error), None, None


def _watched(studio: Studio, page: Mapping[str, Any], folder: Path) -> Iterator[tuple]:
    """`_drawn`, with pictures as files in `folder`; mistakes are raised."""
    started, looked, frames = time.monotonic(), 0.0, []
    yield _said("preparing: what is drawn for the first time is compiled"), None, []
    for event in studio.draw(asking.settings(studio.model, page)):
        seconds = time.monotonic() - started
        if not isinstance(event, Progress):
            said = f"{len(event)} in {seconds:.1f} s, seed {int(page['seed'] or 0)}"
            yield _said(said, 1.0), _written(event, folder, "drawn"), frames
            return
        is_frame = event.step * NUM_FRAMES // event.num_steps > len(frames)
        is_late = seconds - looked > _SECONDS_BETWEEN_LOOKS
        seen = None
        if is_frame or is_late:
            pixels = np.asarray(image_to_pixels(event.believed()))
            seen, looked = _written(pixels, folder, f"step{event.step}"), seconds
        if is_frame and seen is not None:
            frames = [*frames, (seen[0], str(event.step))]
        said = f"step {event.step} of {event.num_steps}"
        yield _said(said, event.step / event.num_steps), seen, frames


def _written(pixels: np.ndarray, folder: Path, name: str) -> list[str]:
    """PNG files: Gradio writes arrays anew in every update, under the browser's eyes."""
    paths = [str(folder / f"{name}_{i}.png") for i in range(len(pixels))]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def _said(text: str, share: float | None = None) -> str:
    """What is going on, with a bar if it is known how far."""
    bar = ""
    if share is not None:
        bar = f'<div class="bar"><div style="width: {share:.0%}"></div></div>'
    return f"<div>{html.escape(text)}</div>{bar}"


def _failed(error: Exception) -> str:
    """A mistake of the user's as its sentence; a bug as such, in full on the terminal."""
    sentence = " ".join(str(error).split())
    if not isinstance(error, ValueError | TypeError | OSError):
        traceback.print_exception(error, file=sys.stderr)
        sentence = f"{type(error).__name__}: {sentence}; the terminal says where"
    return f'<div class="error">{html.escape(sentence)}</div>'


def _inputs(studio: Studio) -> dict[str, Any]:
    """What the model is told and what it starts from, by the names of `asking`."""
    look = asking.look(studio.model)
    white = np.full((*CANVAS, 3), 255, np.uint8)
    blank: Any = {"background": white, "layers": [], "composite": white}
    prompt = gr.Textbox(
        label="Prompt", lines=1, max_lines=3, elem_id="prompt", **look["prompt"]
    )
    return {
        "prompt": prompt,
        "class_labels": gr.Dropdown(
            label="Class; if none is chosen, all in turn",
            multiselect=True,
            elem_id="classes",
            **look["class_labels"],
        ),
        "low_res": gr.Image(
            label="Picture to enlarge", elem_id="low_res", **look["low_res"]
        ),
        "longest_side": gr.Slider(
            8,
            256,
            step=8,
            label="Its longest side before that, in pixels",
            **look["longest_side"],
        ),
        "segmentation": gr.Image(
            label="Label map: a PNG whose values are labels",
            type="filepath",
            format="png",
            image_mode=None,
            **look["segmentation"],
        ),
        "start": gr.Radio(label="Start from", elem_id="start", **look["start"]),
        "picture": gr.ImageEditor(
            blank,
            label="Draw, or put a picture here",
            canvas_size=CANVAS,
            brush=gr.Brush(default_size=24),
            layers=False,
            elem_id="picture",
            **look["picture"],
        ),
        "hole": gr.ImageEditor(
            label="Put a picture here and paint over what is to be filled in",
            canvas_size=CANVAS,
            brush=gr.Brush(default_size=48, colors=["#e11d48"], color_mode="fixed"),
            layers=False,
            elem_id="hole",
            **look["hole"],
        ),
        "strength": gr.Slider(
            0,
            1,
            0.6,
            step=0.05,
            label="Strength: 0 keeps the picture, 1 forgets it",
            elem_id="strength",
            **look["strength"],
        ),
    }


def _settings(studio: Studio) -> dict[str, Any]:
    """How to draw, by the names of `asking`."""
    look = asking.look(studio.model)
    with gr.Group():
        num_samples = gr.Radio([*COLUMNS], value=4, label="Pictures")
        with gr.Row(equal_height=True):
            seed = gr.Number(0, label="Seed", precision=0, elem_id="seed")
            dice = gr.Button("Another seed", elem_id="dice", min_width=120)
            dice.click(_another_seed, None, seed, show_progress="hidden")
        with gr.Row():
            sampler = gr.Dropdown(
                [*SAMPLERS], label="Sampler", elem_id="sampler", **look["sampler"]
            )
            steps = gr.Slider(
                1, 250, step=1, label="Steps", elem_id="steps", **look["steps"]
            )
        guidance_scale = gr.Slider(
            1,
            15,
            step=0.1,
            label="Guidance; 1 is none",
            elem_id="guidance",
            **look["guidance_scale"],
        )
        eta = gr.Slider(
            0, 1, 0, step=0.05, label="Eta: noise added on the way", **look["eta"]
        )
        negative_prompt = gr.Textbox(
            label="Lead away from", max_lines=2, **look["negative_prompt"]
        )
    return {
        "num_samples": num_samples,
        "seed": seed,
        "sampler": sampler,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "eta": eta,
        "negative_prompt": negative_prompt,
    }
