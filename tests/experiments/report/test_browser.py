"""The report in a real browser: laptop and phone, light and dark, and on paper."""

import re
import shutil

import pytest

from dermaffinity.experiments.report import write

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"laptop": (1366, 768), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(uninterrupted, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write.report(["tiny"], runs=uninterrupted / "runs", out=path)
    return path.as_uri()


def visit(browser, address: str, size: str, scheme: str):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    return page, said, [url for url in asked if not url.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_loaded_nothing_complains_and_nothing_scrolls_sideways(browser, address, size, scheme):
    page, said, asked = visit(browser, address, size, scheme)
    assert said == []
    assert asked == [address]
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    broken = page.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length")
    assert (page.evaluate("document.images.length") > 0, broken) == (True, 0)
    page.close()


def test_text_can_be_read_in_light_and_in_dark(browser, address):
    backgrounds = {}
    for scheme in ("light", "dark"):
        page, _, _ = visit(browser, address, "laptop", scheme)
        backgrounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        pairs = page.evaluate(
            """() => [...document.querySelectorAll("main *, nav *")].filter(
                part => [...part.childNodes].some(node => node.nodeType == 3 && node.textContent.trim())
            ).map(part => {
                let behind = part, color = "rgba(0, 0, 0, 0)";
                while (behind && color == "rgba(0, 0, 0, 0)") {
                    color = getComputedStyle(behind).backgroundColor; behind = behind.parentElement;
                }
                const canvas = document.createElement("canvas").getContext("2d");
                const rgb = name => {
                    canvas.fillStyle = name; canvas.fillRect(0, 0, 1, 1);
                    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
                };
                return [rgb(getComputedStyle(part).color), rgb(color), part.textContent.trim().slice(0, 40)];
            })"""
        )
        assert len(pairs) > 300
        poor = [(text, color, behind) for color, behind, text in pairs if contrast(color, behind) < 4.5]
        assert poor == []
        # Figures have no ground of their own: what is black in them follows the page's text.
        ink = page.evaluate("getComputedStyle(document.querySelector('figure svg')).fill")
        assert contrast([int(n) for n in re.findall(r"\d+", ink)[:3]], pairs[0][1]) > 7
        page.close()
    assert backgrounds["light"] != backgrounds["dark"]


def test_it_prints(browser, address):
    page, _, _ = visit(browser, address, "laptop", "dark")
    document = page.pdf(prefer_css_page_size=True, print_background=True)
    assert document.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\n", document)) >= 5
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()


def test_it_can_be_walked_by_keyboard(browser, address):
    page, _, _ = visit(browser, address, "laptop", "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    unreachable = page.evaluate(
        """[...document.querySelectorAll("*")].filter(part => part.scrollWidth > part.clientWidth + 1
            && ["auto", "scroll"].includes(getComputedStyle(part).overflowX) && part.tabIndex < 0).length"""
    )
    assert unreachable == 0
    page.close()


def contrast(one: list[int], other: list[int]) -> float:
    """The contrast ratio of two sRGB colors, as WCAG 2.2 defines it."""

    def luminance(color: list[int]) -> float:
        shares = [value / 255 for value in color]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
