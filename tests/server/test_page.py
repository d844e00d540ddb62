"""The page at ``/`` in a real browser, headless, at the widths of a desk and of a phone.

``KILOTOK_SCREENSHOTS=DIR`` keeps pictures of every state to be looked at.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"desk": (1280, 800), "phone": (390, 844)}
KEY = {"username": "me", "password": "test-key"}


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("KILOTOK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page and keep what its console complains about: ``visit(url, size=..., ...)``."""
    contexts = []

    def open_page(url, size="desk", scheme="light", credentials=KEY):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            http_credentials=credentials,
            is_mobile=size == "phone",
            has_touch=size == "phone",
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on(
            "console",
            lambda line: page.complaints.append(line.text) if line.type == "error" else None,
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()


def keep(page, name):
    folder = os.environ.get("KILOTOK_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def ask(page, text, tokens):
    # At the page's own temperature a reply may end with its first token.
    page.fill("#temperature", "0")
    page.fill("#max-tokens", str(tokens))
    page.fill("#input", text)
    page.press("#input", "Enter")


def fits(page):
    """Whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_a_conversation_with_its_numbers(visit, server, size, scheme):
    page = visit(server.url, size, scheme)
    page.wait_for_selector("#state.good")
    keep(page, f"{size}-{scheme}-start")
    for turn, text in enumerate(["def quicksort(xs):", "And now in one line?"]):
        ask(page, text, 200)
        page.wait_for_function(
            "turn => document.querySelectorAll('.assistant .foot').length > turn", arg=turn
        )
    replies = page.locator(".assistant .text").all_inner_texts()
    assert len(replies) == 2
    assert all(replies)
    assert "tok/s" in page.locator(".foot").last.inner_text()
    assert fits(page)
    keep(page, f"{size}-{scheme}-chat")
    if size == "phone":
        assert not page.is_visible("#numbers")
        page.tap("[data-show=numbers]")
        assert not page.is_visible("#chat")
    assert float(page.inner_text("#rate")) > 0
    assert page.locator("#histogram rect").count() == 8
    assert "since this page was opened" in page.inner_text("#tau")
    assert "Speed-up" in page.inner_text("#receipt")
    assert page.locator("#slots i").count() == 16
    assert page.locator("#pages i").count() > 0
    assert "Weights" in page.inner_text("#bytes")
    assert page.locator("#spark polyline").count() == 1
    assert fits(page)
    keep(page, f"{size}-{scheme}-numbers")
    assert page.complaints == []


def test_a_reply_grows_while_it_comes_and_can_be_stopped(visit, start):
    server = start("--simulate", "50")
    page = visit(server.url)
    ask(page, "Tell me a long story.", 2000)
    grown = "length => document.querySelector('.assistant .text').textContent.length > length"
    page.wait_for_function(grown, arg=0)
    seen = len(page.inner_text(".assistant .text"))
    page.wait_for_function(grown, arg=seen + 20)
    rate = "() => Math.abs(Number(document.getElementById('rate').textContent) - 50) < 10"
    page.wait_for_function(rate)
    page.wait_for_function("() => document.querySelectorAll('#slots i.used').length === 1")
    assert page.inner_text("#send") == "Stop"
    keep(page, "desk-light-running")
    page.click("#send")
    page.wait_for_function("() => document.querySelectorAll('#slots i.used').length === 0")
    assert page.inner_text(".assistant .foot") == "stopped"
    assert page.inner_text("#send") == "Send"
    page.click("#clear")
    assert page.locator(".message").count() == 0
    assert page.complaints == []


def test_refusals_are_shown_in_the_servers_words(visit, server):
    page = visit(server.url)
    ask(page, "Too much.", 999_999)
    page.wait_for_selector(".message.error")
    assert "position" in page.inner_text(".message.error .foot")
    keep(page, "desk-light-error")


def test_markup_in_a_message_is_text(visit, server):
    page = visit(server.url)
    ask(page, "<img src=x onerror=alert(1)><b>bold</b>", 1)
    page.wait_for_selector(".assistant .foot")
    assert page.locator(".message img, .message b").count() == 0
    assert page.complaints == []


def test_a_server_that_is_gone_is_said_to_be_gone(visit, start):
    server = start("--simulate", "100")
    page = visit(server.url)
    page.wait_for_selector("#state.good")
    server.process.kill()
    page.wait_for_function("() => document.getElementById('state').textContent === 'unreachable'")


def test_without_the_key_there_is_no_page(visit, server):
    wrong = {"username": "me", "password": "wrong"}
    page = visit(server.url, credentials=wrong)
    assert page.locator("#input").count() == 0
