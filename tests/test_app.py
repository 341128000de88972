"""The page: what it asks of a model, drawing that is watched, and Chromium clicking on it."""

import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_latent_diffusion import tiny_batch, tiny_class_conditioner

from ldm_jax.app import asking
from ldm_jax.app.studio import StoppedError, Studio
from ldm_jax.conditioners import Concat
from ldm_jax.stepwise import Progress
from tests.test_model import TinyText, model_of, tiny_tokenizer

PAGE = {
    "prompt": "a dog",
    "negative_prompt": "",
    "class_labels": [],
    "start": asking.NOISE,
    "picture": None,
    "hole": None,
    "strength": 0.5,
    "low_res": None,
    "longest_side": 8,
    "segmentation": None,
    "sampler": "ddim",
    "steps": 3,
    "guidance_scale": 2.0,
    "eta": 0.5,
    "seed": 7,
    "num_samples": 4,
}


def rgba(*shape, alpha=255):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 4), np.uint8)
    picture[..., 3] = alpha
    return picture


@pytest.fixture(scope="module")
def text():
    batch = {"image": tiny_batch()["image"], "tokens": jnp.zeros((4, 6), jnp.int32)}
    return model_of(TinyText(), batch, tokenizer=tiny_tokenizer)


@pytest.fixture(scope="module")
def classes():
    return model_of(tiny_class_conditioner(), tiny_batch(), class_names=tuple("abcde"))


@pytest.fixture(scope="module")
def low_res():
    batch = tiny_batch() | {"low_res": jnp.zeros((4, 4, 4, 3))}
    return model_of(Concat("low_res"), batch)


def test_what_the_model_takes_decides_what_is_shown(text, classes, low_res):
    shown = {
        name: {k for k, v in asking.look(model).items() if v.get("visible", True)}
        for name, model in {"text": text, "classes": classes, "sr": low_res}.items()
    }
    always = {"sampler", "steps", "eta"}
    told = {"prompt", "negative_prompt", "guidance_scale", "start"}
    assert shown["text"] == always | told
    assert shown["classes"] == always | {"class_labels", "guidance_scale", "start"}
    assert shown["sr"] == always | {"low_res", "longest_side"}
    assert asking.look(classes)["class_labels"]["choices"] == [*"abcde"]
    assert set(asking.look(text)) == set(PAGE) - {"seed", "num_samples"}


def test_values_of_the_page_are_settings_that_draw(text, classes):
    asked = asking.settings(text, PAGE)
    assert asked["prompts"] == ["a dog"] and asked["guidance_scale"] == 2.0
    assert text.sample(**asked).shape == (4, 8, 8, 3)
    page = PAGE | {"class_labels": ["c", "e"], "sampler": "heun"}
    asked = asking.settings(classes, page)
    assert asked["class_labels"] == ["c", "e"] and "eta" not in asked
    assert "prompts" not in asked


def test_a_drawing_becomes_the_picture_to_start_from(text):
    page = PAGE | {"start": asking.PICTURE, "picture": {"composite": rgba(30, 60)}}
    asked = asking.settings(text, page)
    assert asked["init_image"].shape == (8, 16, 3) and asked["strength"] == 0.5
    transparent = asking.flattened(rgba(2, 2, alpha=0))
    assert transparent is None
    half = asking.flattened(np.array([[[0, 0, 0, 128]]], np.uint8))
    assert half is not None and (half == 127).all()


def test_paint_on_the_picture_is_the_hole(text):
    layer = np.zeros((32, 32, 4), np.uint8)
    layer[:16, :16, 3] = 255
    editor = {"background": rgba(32, 32), "layers": [layer]}
    asked = asking.settings(text, PAGE | {"start": asking.HOLE, "hole": editor})
    assert asked["hole"].shape == (8, 8) and asked["hole"].sum() == 16
    assert asked["hole"][:4, :4].all() and "strength" not in asked
    drawn = text.sample(**asked)
    np.testing.assert_array_equal(drawn[0][4:], asked["init_image"][4:])


def test_a_small_picture_is_enlarged(low_res):
    page = PAGE | {"low_res": rgba(64, 32)[..., :3], "longest_side": 8}
    asked = asking.settings(low_res, page)
    assert asked["conditions"]["low_res"].shape == (1, 8, 4, 3)
    assert low_res.sample(**asked).shape == (4, 16, 8, 3)


MISTAKES = [
    ({"start": asking.PICTURE}, "draw something"),
    (
        {"start": asking.PICTURE, "picture": {"composite": np.full((9, 9, 4), 255, np.uint8)}},
        "draw something",
    ),
    ({"start": asking.HOLE}, "put the picture to fill in"),
    (
        {"start": asking.HOLE, "hole": {"background": rgba(9, 9), "layers": []}},
        "paint over what is to be filled in",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), MISTAKES)
def test_what_is_missing_is_one_sentence(text, changes, says):
    with pytest.raises(ValueError, match=says):
        asking.settings(text, PAGE | changes)


def test_a_studio_shows_every_step_and_then_the_pictures(classes):
    studio = Studio(classes, "tiny")
    *steps, pictures = studio.draw(asking.settings(classes, PAGE))
    assert [step.step for step in steps] == [1, 2, 3]
    assert pictures.shape == (4, 8, 8, 3)
    assert "told class label" in studio.describe() and "8x8" in studio.describe()


def test_a_studio_stops_when_told_and_draws_again(classes):
    studio = Studio(classes)
    seen = []
    with pytest.raises(StoppedError):
        for event in studio.draw(asking.settings(classes, PAGE | {"steps": 250})):
            seen.append(event)
            studio.stop()
    assert 1 <= len(seen) < 250
    left = studio.draw(asking.settings(classes, PAGE | {"steps": 250}))
    assert isinstance(next(left), Progress)
    left.close()  # nobody asks for the rest
    *_, pictures = studio.draw(asking.settings(classes, PAGE))
    assert len(pictures) == 4


def test_a_mistake_leaves_the_studio_as_it_was(classes, tmp_path):
    studio = Studio(classes)
    with pytest.raises(ValueError, match="no class 'x'"):
        list(studio.draw({"class_labels": ["x"]}))
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        studio.load(str(tmp_path))
    assert studio.model.class_names == tuple("abcde")


class Browser:
    """Headless Chromium on a page of ours."""

    def __init__(self, url):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage",
                     "window-size=1240,1120", "hide-scrollbars"):  # fmt: skip
            options.add_argument(f"--{flag}")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.get(url)

    def find(self, css):
        return self.driver.find_elements("css selector", css)

    def wait(self, met, seconds=60):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, seconds).until(lambda _: met())

    def click(self, css):
        self.wait(lambda: self.find(css))[0].click()

    def type(self, css, text):
        box = self.wait(lambda: self.find(css))[0]
        box.clear()
        box.send_keys(text)

    def says(self, text):
        return any(text in e.text for e in self.find("#status"))

    def pictures(self):
        """What the gallery shows, each as pixels."""
        script = """return [...document.querySelectorAll('#pictures img')].map(i => {
            const c = document.createElement('canvas');
            c.width = i.naturalWidth; c.height = i.naturalHeight;
            const x = c.getContext('2d'); x.drawImage(i, 0, 0);
            return c.width ? [c.height, c.width,
              [...x.getImageData(0, 0, c.width, c.height).data]] : null})"""
        found = self.driver.execute_script(script)
        return [np.array(p[2]).reshape(p[0], p[1], 4)[..., :3] for p in found if p]


def compilations():
    """A list that grows by one with every program compiled from now on."""
    found = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def is_picture(pixels):
    """Neither blank nor without differences."""
    return pixels.std() > 3


@pytest.fixture(scope="module")
def open_page():
    """`open_page(studio)`: a browser on its page; skipped where there is none."""
    gradio = pytest.importorskip("gradio")
    pytest.importorskip("selenium")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no chromium: apt-get install chromium chromium-driver")
    from ldm_jax.app import page

    opened = []

    def get(studio):
        blocks = page.build(studio)
        _, url, _ = blocks.queue().launch(
            prevent_thread_lock=True, quiet=True, theme=page.theme(), css=page.CSS,
            server_port=None, footer_links=[],
        )  # fmt: skip
        browser = Browser(url)
        opened.append((blocks, browser))
        return browser

    assert gradio
    yield get
    for blocks, browser in opened:
        browser.driver.quit()
        blocks.close()


@pytest.mark.slow
def test_in_chromium_a_click_draws_and_a_mistake_is_told(open_page, classes):
    browser = open_page(Studio(classes, "tiny"))
    browser.type("#guidance input[type=number]", "3")  # 1, none, is half the program
    browser.click("#draw")
    browser.wait(lambda: browser.says("4 in "))
    browser.wait(lambda: len(browser.pictures()) == 4)
    assert all(is_picture(picture) for picture in browser.pictures())
    assert browser.pictures()[0].shape == (8, 8, 3)  # the picture itself, not enlarged
    assert len(browser.find("#film img")) >= 3
    compiled = compilations()
    browser.type("#steps input[type=number]", "9")
    browser.type("#guidance input[type=number]", "4.5")
    browser.type("#seed input", "11")
    browser.click("#draw")
    browser.wait(lambda: browser.says("seed 11"))
    assert not compiled
    browser.click("#start label:nth-of-type(3)")
    browser.click("#draw")
    browser.wait(lambda: browser.says("put the picture to fill in on the canvas"))


@pytest.mark.slow
def test_in_chromium_the_demo_model_draws_what_is_typed(open_page, tmp_path):
    from ldm_jax import shipped

    if not shipped.asset("emoji_text/config.json").is_file():
        pytest.skip("no demo model beside this checkout")
    browser = open_page(Studio.open(None))
    browser.type("#prompt textarea", "a red apple, 3d")
    browser.click("#draw")
    browser.wait(lambda: browser.says("4 in "), seconds=300)
    browser.wait(lambda: len(browser.pictures()) == 4)
    assert all(is_picture(picture) for picture in browser.pictures())
    screenshot = Path(os.environ.get("LDM_JAX_SCREENSHOT") or tmp_path / "app.png")
    assert browser.driver.save_screenshot(str(screenshot))
    assert is_picture(np.asarray(Image.open(screenshot)))
