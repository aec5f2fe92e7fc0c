"""The page in a real browser: Debian's chromium, headless, driven by selenium. What a user does:
type, see images, drag, vary, edit, download, use an image again, in a window of 360 pixels too.
"""

import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.whole.browsers import Page, narrow, needs_chromium, open_browser, wait
from tests.whole.conftest import Address

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def browser(tmp_path: Path):
    driver = open_browser(tmp_path)
    yield driver
    errors = [row for row in driver.get_log("browser") if row["level"] == "SEVERE"]
    driver.quit()
    assert errors == []


def test_type_see_drag_download(browser, address: Address, tmp_path: Path):
    page = Page(browser, address.url)
    page.write("#panel-generate [name=prompt]", "a smiling cat")
    first = page.submit("generate", 4)
    assert len(set(first)) == 4
    page.picture("page-generate")
    page.drag("#panel-generate [name=truncation]", 0.1)
    wait(lambda: len(page.sources()) == 4 and page.sources() != first)
    page.one("#images a").click()
    saved = wait(lambda: list(tmp_path.glob("a-smiling-cat-0*.png")))
    with Image.open(saved[0]) as image:
        image.load()
        assert image.info["prompt"] == "a smiling cat"
        assert image.info["truncation"] == "0.1"
    page.one("#history button").click()
    wait(lambda: page.sources() == first)
    # a request that is under way adds nothing to what the history shows
    page.write("#panel-generate [name=prompt]", "a blue house")
    page.drag("#panel-generate [name=num_images]", 16)
    page.one("#panel-generate > button").click()
    wait(lambda: 0 < len(page.sources()) < 16 and page.sources()[0] not in first)
    page.one("#history button").click()
    wait(lambda: page.sources() == first)
    time.sleep(1)
    assert page.sources() == first


def test_tabs_by_keyboard_upload_vary_and_edit(browser, address: Address, shipped_images: Path):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, address.url)
    image = str(shipped_images / "3d-1f34e.png")
    page.one("#tab-generate").send_keys(Keys.ARROW_RIGHT)
    assert page.one("#panel-variations").is_displayed()
    page.one("#panel-variations [name=image]").send_keys(image)
    assert len(set(page.submit("variations", 8))) == 8
    page.picture("page-variations")
    page.one("#tab-variations").send_keys(Keys.ARROW_RIGHT)
    assert len(page.submit("interpolate", 8)) == 8
    page.picture("page-interpolate")
    page.one("#tab-interpolate").send_keys(Keys.ARROW_RIGHT)
    page.one("#panel-edit [name=image]").send_keys(image)
    (before,) = page.submit("edit", 1)
    page.drag("#panel-edit [name=strength]", 0.8)
    wait(lambda: page.sources() != [before])
    page.picture("page-edit")


def chosen(page: Page, field: str) -> list[str]:
    """Names of the files in a field."""
    script = "return [...arguments[0].files].map((file) => file.name)"
    return page.browser.execute_script(script, page.one(field))


def test_the_history_brings_uploads_back(
    browser, address: Address, shipped_images: Path, tmp_path: Path
):
    page = Page(browser, address.url)
    apple, field = tmp_path / "apple.png", "#panel-variations [name=image]"
    shutil.copy(shipped_images / "3d-1f34e.png", apple)
    page.one("#tab-variations").click()
    page.one(field).send_keys(str(apple))
    first = page.submit("variations", 8)
    apple.unlink()  # the page alone has it now
    page.one(field).send_keys(str(shipped_images / "3d-1f63a.png"))
    second = page.submit("variations", 8)
    assert "apple.png" in page.one("#history li:last-child").text
    page.one("#history li:last-child button").click()
    wait(lambda: page.sources() == first)
    assert chosen(page, field) == ["apple.png"]
    page.one("#panel-variations > button").click()  # again, of the upload that came back
    wait(lambda: " ms" in page.one("#status").text)
    assert page.sources() == first
    page.one("#history li:nth-child(2) button").click()
    wait(lambda: page.sources() == second)
    assert chosen(page, field) == ["3d-1f63a.png"]
    # an end is a sentence or an image, whichever was given last
    page.one("#tab-interpolate").click()
    sentences = page.submit("interpolate", 8)
    page.one("#panel-interpolate [name=b_image]").send_keys(str(shipped_images / "3d-1f63a.png"))
    towards_image = page.submit("interpolate", 8)
    assert towards_image != sentences
    page.write("#panel-interpolate [name=b_prompt]", "a house")
    assert chosen(page, "#panel-interpolate [name=b_image]") == []
    page.one("#history button").click()
    assert chosen(page, "#panel-interpolate [name=b_image]") == ["3d-1f63a.png"]
    page.one("#history li:nth-child(2) button").click()
    assert chosen(page, "#panel-interpolate [name=b_image]") == []
    assert page.sources() == sentences
    # what it holds is bounded
    assert len(browser.find_elements("css selector", "#history li")) == 5
    browser.execute_script("HISTORY.entries = 4")
    page.one("#panel-interpolate > button").click()
    wait(lambda: len(browser.find_elements("css selector", "#history li")) == 4)
    browser.execute_script("HISTORY.bytes = heldBytes()")
    page.one("#tab-variations").click()
    page.submit("variations", 8)
    assert len(browser.find_elements("css selector", "#history li")) < 4
    assert browser.execute_script("return heldBytes() <= HISTORY.bytes")


def test_an_image_is_used_in_another_tab(browser, address: Address):
    from selenium.webdriver.common.keys import Keys

    narrow(browser)
    page = Page(browser, address.url)
    page.write("#panel-generate [name=prompt]", "a smiling cat")
    page.submit("generate", 4)
    opener = page.one("#images li:nth-child(2) figure button")
    assert opener.accessible_name.startswith("Use in")
    assert "seed 1" in opener.accessible_name
    opener.send_keys(Keys.ENTER)
    dialog = page.one("#use")
    assert dialog.aria_role == "dialog"
    assert dialog.accessible_name == "Use the image in"
    names = [one.text for one in dialog.find_elements("css selector", "button")]
    ends = ["Interpolate: from", "Interpolate: to"]
    layers = ["Style mix: coarse layers of", "Style mix: fine layers of"]
    assert names == ["Variations", *ends, "Edit", *layers, "Project", "Cancel"]
    page.check_width(360)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait(lambda: not dialog.is_displayed())
    assert browser.switch_to.active_element == opener
    opener.send_keys(Keys.ENTER)
    assert browser.switch_to.active_element.text == "Variations"
    for _ in range(3):
        browser.switch_to.active_element.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert not dialog.is_displayed()
    assert page.one("#panel-edit").is_displayed()
    assert browser.switch_to.active_element == page.one("#panel-edit [name=image]")
    assert "chosen in Edit" in page.one("#status").text
    assert chosen(page, "#panel-edit [name=image]") == ["a-smiling-cat-1.png"]
    assert page.one("#panel-edit [name=source]").get_property("value") == "a smiling cat"
    page.submit("edit", 1)
    page.check_width(360)
    # one of the history, as an end of a way
    page.one("#history li:last-child button").click()
    wait(lambda: len(page.sources()) == 4)
    page.one("#images figure button").click()
    page.one("#use li:nth-child(3) button").click()
    assert chosen(page, "#panel-interpolate [name=b_image]") == ["a-smiling-cat-0.png"]
    page.submit("interpolate", 8)


def test_mix_guide_project_and_walk(
    browser, address: Address, shipped_images: Path, tmp_path: Path
):
    page = Page(browser, address.url)
    page.one("#tab-style-mix").click()
    (mixed,) = page.submit("style-mix", 1)
    page.drag("#panel-style-mix [name=first]", 1)
    wait(lambda: page.sources() not in ([], [mixed]))
    page.picture("page-style-mix")
    page.one("#tab-guide").click()
    page.drag("#panel-guide [name=steps]", 3)
    assert len(set(page.submit("guide", 4))) == 4
    assert "cosine" in page.one("#images figcaption").text
    page.one("#tab-project").click()
    page.one("#panel-project [name=image]").send_keys(str(shipped_images / "3d-1f34e.png"))
    page.drag("#panel-project [name=steps]", 5)
    page.submit("project", 1)
    assert "dB" in page.one("#images figcaption").text
    page.one("#tab-walk").click()
    (film,) = page.submit("walk", 1)
    assert film.startswith("data:image/webp")
    assert browser.find_elements("css selector", "#images button") == []  # it is no image
    page.one("#images a").click()
    saved = wait(lambda: list(tmp_path.glob("*.webp")))
    with Image.open(saved[0]) as image:
        assert image.n_frames == 48
    page.one("#history button").click()
    wait(lambda: page.sources() == [film])


def test_refusals_are_shown(browser, address: Address):
    page = Page(browser, address.url)
    page.drag("#panel-generate [name=prompt]", "  ")
    page.one("#panel-generate > button").click()
    wait(lambda: "A sentence is empty" in page.one("#status").text)
    browser.get_log("browser")  # chromium reports the 422 as an error


def test_a_narrow_window_needs_no_sideways_scrolling(browser, address: Address):
    narrow(browser)
    page = Page(browser, address.url)
    page.submit("generate", 4)
    tabs = browser.find_elements("css selector", "[role=tab]")
    assert len(tabs) == 8
    for tab in (one.get_attribute("id").removeprefix("tab-") for one in tabs):
        page.one(f"#tab-{tab}").click()
        page.check_width(360)
    page.one("#tab-generate").click()
    page.picture("page-narrow")
