"""The inbox as a page, in a real browser: Debian's chromium, or one that `OCA_SMS_TEST_CHROMIUM` names."""

import asyncio
import os
import re
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import pytest
from documents import DOCS, read
from playwright.async_api import Page, Route, async_playwright, expect
from watched_inbox import Watches

from oca_sms_async import AsyncOcaSms, InvalidRequestError, OcaSmsError
from oca_sms_async.sandbox import FAULTS, Sandbox, _control, _inbox

ROOT = Path(__file__).parent.parent
CHROMIUM = os.environ.get("OCA_SMS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
PHONE = "+6281381475159"
TEXT = "Acme: 482913 adalah kode OTP Anda."
WAIT = 20_000  # milliseconds until a page that does not change fails its test


def deliver(sandbox: Sandbox, text: str = TEXT, phone: str = PHONE, **other: Any) -> None:
    """Put a message into the inbox."""
    sandbox.inbox.deliver(phone, text, segments=1, stages=[(0.0, "sent")], **other)


def origin(sandbox: Sandbox) -> str:
    """Return where the page is."""
    return sandbox.base_url.removesuffix("/api/v1")


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds that the browser brings about."""
    async with asyncio.timeout(WAIT / 1000):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def wrong() -> list[str]:
    """The browser's complaints. A test that causes one clears the list."""
    return []


@pytest.fixture
async def page(sandbox: Sandbox, wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Page]:
    """The sandbox's page in a browser, once it watches; an error in its script or a request elsewhere is a failure."""
    monkeypatch.setattr(_control, "_TICK", 0.05)
    if CHROMIUM is None:
        reason = "no chromium: install it (Debian's package is `chromium`), or name one in OCA_SMS_TEST_CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(viewport={"width": 1000, "height": 700})
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=origin(sandbox))
        opened = await context.new_page()
        opened.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        opened.on("request", lambda it: None if it.url.startswith((origin(sandbox), "data:")) else wrong.append(it.url))
        await opened.goto(origin(sandbox) + "/")
        await expect(opened.locator("#connection")).to_contain_text("watching")
        yield opened
        await browser.close()
        assert wrong == []


async def test_a_message_appears_without_reload(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """A sent message is on the open page, the newest first, with all its facts."""
    await expect(page.locator("#nothing")).to_be_visible()
    sandbox.failing_attempts = 1
    await client.send(PHONE, TEXT)
    sandbox.failing_attempts = 0
    first = page.locator("#messages li").first
    await expect(first.locator(".phone")).to_have_text(PHONE)
    await expect(first.locator(".text")).to_have_text(TEXT)
    facts = r"sent\s*1 segment, GSM-7\s*2 attempts\s*by Regular V1\s*internal-error"
    await expect(first.locator(".facts")).to_have_text(re.compile(facts))
    await expect(first.locator("time")).to_have_attribute("datetime", re.compile(r"^\d{4}-\d\d-\d\dT"))
    await expect(page.locator("#nothing")).to_be_hidden()
    await client.send(PHONE, "x" * 161)
    await expect(page.locator("#messages li")).to_have_count(3)  # the refused attempt, too
    await expect(first.locator(".facts")).to_have_text(re.compile(r"2 segments, GSM-7\s*1 attempt"))
    await expect(page.locator("#accepted")).to_have_text("2")
    await expect(page.locator("#refused")).to_have_text("1")
    await expect(page.locator("#refusals")).to_have_text("1 × internal-error")


async def test_statuses_move_on(page: Page, client: AsyncOcaSms, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that changes with time changes on the page."""
    await client.send(PHONE, TEXT)
    await expect(page.locator("#messages .status")).to_have_text("sent")
    monkeypatch.setattr(_inbox, "monotonic", lambda: monotonic() + 60)
    await expect(page.locator("#messages .status")).to_have_text("delivered")


async def test_search_filters(page: Page, client: AsyncOcaSms) -> None:
    """Only messages with the words are left, in any case of letters. Without words all come back."""
    await client.send(PHONE, "Acme: 111111 is your code")
    await client.send("+6281381475158", "Zenith: 222222 is your code")
    await expect(page.locator("#messages li")).to_have_count(2)
    for words, found in [("ACME", "111111"), ("222222", "222222"), ("475158", "222222")]:
        await page.locator("#search").fill(words)
        await expect(page.locator("#messages li:visible")).to_have_count(1)
        await expect(page.locator("#messages li:visible .text")).to_contain_text(found)
    await page.locator("#search").fill("nowhere")
    await expect(page.locator("#nothing")).to_have_text("No message has this in it.")
    await page.locator("#search").fill("")
    await expect(page.locator("#messages li:visible")).to_have_count(2)


async def test_a_number_is_found_however_it_is_written(page: Page, sandbox: Sandbox) -> None:
    """Digits are compared with digits, of the number as of the code, and a leading 0 is Indonesia's 62."""
    for phone, text in [(PHONE, "482 913 is your code"), ("+6281381475158", "hello")]:
        deliver(sandbox, text, phone)
    await expect(page.locator("#messages li")).to_have_count(2)
    for spelling in [
        "081381475159",
        "0813-8147-5159",
        "(0813) 8147\u20115159",
        "62 813 8147 5159",
        "475 159",
        "482-913",
    ]:
        await page.locator("#search").fill(spelling)
        await expect(page.locator("#messages li:visible .phone")).to_have_text([PHONE])
    for spelling in ["+62 813", "0813", "813 8147"]:
        await page.locator("#search").fill(spelling)
        await expect(page.locator("#messages li:visible")).to_have_count(2)
    for spelling in ["0138", "-", "081381475157"]:
        await page.locator("#search").fill(spelling)
        await expect(page.locator("#messages li:visible")).to_have_count(0)


async def test_a_long_list_has_pages(page: Page, sandbox: Sandbox) -> None:
    """A page shows 25 entries. Older ones stay in place while messages arrive, and a search finds the very oldest."""
    for n in range(60):
        deliver(sandbox, f"text {n}", f"+62813{n:08}")
    rows, part = page.locator("#messages li"), page.locator("#part")
    newer, older = page.get_by_role("button", name="Newer"), page.get_by_role("button", name="Older")
    await expect(rows).to_have_count(25)
    await expect(part).to_have_text("1–25 of 60")
    await expect(newer).to_be_disabled()
    await older.click()
    await expect(part).to_have_text("26–50 of 60")
    await expect(rows.first.locator(".text")).to_have_text("text 34")
    deliver(sandbox, "the newest")
    await expect(part).to_have_text("26–50 of 60, 1 newer")
    await expect(rows.first.locator(".text")).to_have_text("text 34")
    await older.click()
    await expect(part).to_have_text("51–60 of 60, 1 newer")
    await expect(older).to_be_disabled()
    await newer.click()
    await newer.click()
    await expect(part).to_have_text("1–25 of 61")
    await expect(rows.first.locator(".text")).to_have_text("the newest")
    await page.locator("#search").fill("+6281300000000")
    await expect(rows.locator(".text")).to_have_text(["text 0"])
    await expect(page.locator("#pages")).to_be_hidden()


async def test_pages_that_are_gone_are_left(page: Page, sandbox: Sandbox) -> None:
    """If the messages are forgotten elsewhere while an old page is shown, the first page takes its place."""
    for n in range(30):
        deliver(sandbox, f"text {n}")
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("#part")).to_have_text("26–30 of 30")
    sandbox.inbox.clear()
    await expect(page.locator("#messages li")).to_have_count(0)
    await expect(page.locator("#nothing")).to_be_visible()
    deliver(sandbox, "after")
    await expect(page.locator("#messages .text")).to_have_text(["after"])


async def test_refused_requests_are_rows(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """«Why did mine not arrive?» is answered by a row with a reason, a code and a masked number."""
    await client.send(PHONE, TEXT)
    sandbox.quota = 0
    with pytest.raises(OcaSmsError):
        await client.send(PHONE, TEXT)
    row = page.locator("#messages li.refused")
    await expect(row.locator(".phone")).to_have_text("***********159")
    await expect(row.locator(".outcome")).to_have_text("refused")
    await expect(row.locator(".text")).to_have_text("The message needs more segments than the quota has left.")
    await expect(row.locator(".facts")).to_have_text(
        re.compile(r"HTTP 401, code 55\s*send by Regular V1\s*quota-exhausted")
    )
    await expect(row.locator("time")).to_have_attribute("datetime", re.compile(r"^\d{4}-\d\d-\d\dT"))
    await expect(row.locator(".copy")).to_be_hidden()
    quota = re.compile("quota")
    choices: dict[str, list[str | re.Pattern[str]]] = {"Refused": [quota], "Accepted": [TEXT], "All": [quota, TEXT]}
    for choice, texts in choices.items():
        await page.get_by_role("radio", name=choice).check()
        await expect(page.locator("#messages .text")).to_have_text(texts)
    await page.get_by_role("radio", name="Refused").check()
    await page.locator("#search").fill("081381475159")
    await expect(page.locator("#messages li")).to_have_count(1)
    await page.locator("#search").fill("nowhere")
    await expect(page.locator("#nothing")).to_have_text("No refused request has this in it.")
    await page.locator("#search").fill("")
    await page.get_by_role("button", name="Forget all").click()
    await page.get_by_role("button", name="Forget", exact=True).click()
    await expect(page.locator("#nothing")).to_have_text("There is no refused request.")


async def test_api_sender_and_encoding_are_shown(page: Page, sandbox: Sandbox) -> None:
    """Each message has its API, its sender if it has one, its encoding and its date."""
    deliver(sandbox, "Acme: 482913")
    deliver(sandbox, "Acme: 482913 😀", api="premium-v2", sender_id="Acme")
    facts = page.locator("#messages .facts")
    await expect(facts.first).to_have_text(re.compile(r"1 segment, UCS-2.*by Premium V2 from Acme", re.DOTALL))
    await expect(facts.last).to_have_text(re.compile(r"1 segment, GSM-7.*by Regular V1", re.DOTALL))
    year = str(sandbox.inbox[0].created_at.astimezone().year)
    await expect(page.locator("#messages time").first).to_contain_text(year)


async def test_an_empty_page_says_how_to_connect(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """URL, credentials and lines to paste are there to be copied, for each API, until a message has arrived."""
    access = page.locator("#access")
    await expect(access).to_have_attribute("open", "")
    lines = ["unset OCA_SMS_API OCA_SMS_TOKEN OCA_SMS_SENDER_ID"]
    lines += [f"export {name}={value}" for name, value in sandbox.environment().items()]
    assert len(lines) == 4
    await expect(page.locator("#lines")).to_have_text("\n".join(lines))
    for button, text, name in [
        ("Copy the lines", "\n".join(lines), "The lines"),
        ("Copy: Base URL", sandbox.base_url, "Base URL"),
        ("Copy: Username", sandbox.username, "Username"),
        ("Copy: Password", sandbox.password, "Password"),
    ]:
        await page.get_by_role("button", name=button).click()
        await expect(page.locator("#said")).to_have_text(f"{name} is copied.")
        assert await page.evaluate("navigator.clipboard.readText()") == text
    await page.get_by_label("API").select_option("Premium V2")
    await expect(page.locator("#credentials dt")).to_have_text(["Base URL", "Token", "Sender"])
    await expect(page.locator("#credentials code")).to_have_text(
        [sandbox.url_of("premium-v2"), "sandbox-token", "Sandbox"]
    )
    await expect(page.locator("#lines")).to_contain_text("export OCA_SMS_API=premium-v2")
    await client.send(PHONE, TEXT)
    await expect(access).not_to_have_attribute("open", "")
    await access.locator("summary").click()
    await expect(page.locator("#lines")).to_be_visible()


async def test_disconnected_is_loud(page: Page, sandbox: Sandbox, wrong: list[str]) -> None:
    """When the sandbox is gone the page says so in a banner that stays in view, and in its title, until it is back."""
    for n in range(10):
        deliver(sandbox, f"text {n}")
    await expect(page.locator("#messages li")).to_have_count(10)
    lost = page.get_by_role("alert").filter(has_text="Disconnected")
    await expect(lost).to_be_hidden()
    await page.clock.install()
    await page.route("**/sandbox/events", lambda route: route.fulfill(status=503))
    await page.evaluate("watch()")
    await expect(lost).to_have_text(
        re.compile(r"Disconnected: the sandbox does not answer. This page shows its state at .+\.")
    )
    await page.mouse.wheel(0, 5000)
    await expect(lost).to_be_in_viewport(ratio=1)
    await expect(page).to_have_title("Disconnected – SMS sandbox")
    await page.unroute("**/sandbox/events")
    await page.clock.fast_forward(2000)
    await expect(lost).to_be_hidden()
    await expect(page).to_have_title("SMS sandbox")
    assert all("503" in line for line in wrong)
    wrong.clear()


AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
async def test_axe_finds_nothing(
    page: Page, client: AsyncOcaSms, sandbox: Sandbox, scheme: Literal["light", "dark"], width: int
) -> None:
    """In each state of the page, axe-core has no complaint: names, roles, contrasts, order."""
    await page.emulate_media(color_scheme=scheme)
    await page.set_viewport_size({"width": width, "height": 800})
    await page.evaluate(AXE)

    async def check(state: str) -> None:
        result = await page.evaluate("axe.run()")
        assert [(state, it["id"], it["nodes"][0]["html"]) for it in result["violations"]] == []
        assert len(result["passes"]) > 10

    await expect(page.locator("#lines")).to_be_visible()
    await check("empty")
    sandbox.rate_limit, sandbox.failing_attempts = 25, 1
    await client.send(PHONE, TEXT)
    for n in range(30):
        deliver(sandbox, f"text {n} 482913")
    await expect(page.locator("#part")).to_have_text("1–25 of 32")
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("#messages li.refused")).to_have_count(1)
    await check("rows")
    await page.locator("#faults summary").click()
    await page.get_by_role("switch", name="reset").check()
    await expect(page.locator("#playing")).to_contain_text("reset")
    await check("faults")
    await page.get_by_role("button", name="Forget all").click()
    await check("question")
    await page.get_by_role("button", name="Keep").click()
    await page.evaluate("events.dispatchEvent(new Event('error'))")
    await expect(page.locator("#lost")).to_be_visible()
    await check("disconnected")


async def test_a_fault_switched_on_is_played(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """The next send fails as the switch says, and is accepted when the switch is off again."""
    await page.locator("#faults summary").click()
    await expect(page.get_by_role("switch")).to_have_count(len(FAULTS))
    await page.get_by_role("switch", name="invalid-request").check()
    await expect(page.locator("#playing")).to_have_text("(invalid-request)")
    with pytest.raises(InvalidRequestError):
        await client.send(PHONE, TEXT)
    await expect(page.locator("#refusals")).to_have_text("1 × invalid-request")
    await page.get_by_role("switch", name="invalid-request").uncheck()
    await expect(page.locator("#playing")).to_have_text("")
    await client.send(PHONE, TEXT)
    assert len(sandbox.inbox) == 1


async def test_faults_are_set_in_percent_and_by_attempts(page: Page, sandbox: Sandbox) -> None:
    """A percentage is a probability. An impossible one is not set, and the failing attempts stay."""
    await page.locator("#faults summary").click()
    percent = page.get_by_label("reset: percent of the sends")
    await expect(percent).to_be_disabled()
    await page.get_by_role("switch", name="reset").check()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    await percent.fill("12.5")
    await percent.press("Enter")
    await until(lambda: sandbox.faults == {"reset": 0.125})
    await page.locator("#failing").fill("2")
    await page.locator("#failing").press("Enter")
    await expect(page.locator("#playing")).to_have_text("(reset, failing-attempts)")
    assert (sandbox.faults, sandbox.failing_attempts) == ({"reset": 0.125}, 2)
    await percent.fill("101")
    await percent.press("Enter")
    await expect(page.locator(".percent:invalid")).to_have_count(1)
    await percent.fill("50")
    await percent.press("Enter")
    await expect(page.locator(".percent:invalid")).to_have_count(0)
    await until(lambda: sandbox.faults != {"reset": 0.125})
    assert sandbox.faults == {"reset": 0.5}


async def test_faults_set_elsewhere_are_shown(page: Page, sandbox: Sandbox) -> None:
    """A switch follows a change from Python, or from another page."""
    await page.locator("#faults summary").click()
    sandbox.faults = {"html": 0.25}
    await expect(page.get_by_role("switch", name="html")).to_be_checked()
    await expect(page.get_by_label("html: percent of the sends")).to_have_value("25")


async def test_a_percentage_is_inactive_while_its_fault_is_off(page: Page, sandbox: Sandbox) -> None:
    """A fault has a sentence, and a percentage that can be set only while the fault is on. It is kept meanwhile."""
    await page.locator("#faults summary").click()
    switch, percent = page.get_by_role("switch", name="reset"), page.get_by_label("reset: percent of the sends")
    row = page.locator(".switch").filter(has=switch)
    await expect(row.locator(".sentence")).to_have_text(
        "The connection is reset before an answer. Nothing is delivered."
    )
    await expect(row.locator(".share")).to_contain_text("%")
    await expect(page.locator(".sentence:empty")).to_have_count(0)
    await expect(page.locator(".percent:disabled")).to_have_count(len(FAULTS))
    await switch.check()
    await expect(percent).to_be_enabled()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    await percent.fill("25")
    await percent.press("Enter")
    await until(lambda: sandbox.faults == {"reset": 0.25})
    await switch.uncheck()
    await expect(percent).to_be_disabled()
    await until(lambda: sandbox.faults == {})
    await switch.check()
    await until(lambda: sandbox.faults == {"reset": 0.25})


async def test_a_percentage_of_nothing_is_off(page: Page, sandbox: Sandbox) -> None:
    """0 percent switches the fault off, with the focus on its switch, and the switch then means always."""
    await page.locator("#faults summary").click()
    switch, percent = page.get_by_role("switch", name="reset"), page.get_by_label("reset: percent of the sends")
    await switch.check()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    await percent.fill("0")
    await percent.press("Enter")
    await until(lambda: sandbox.faults == {})
    await expect(switch).not_to_be_checked()
    await expect(switch).to_be_focused()
    await switch.check()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    await expect(percent).to_have_value("100")


async def test_an_impossible_percentage_is_its_own_fault_s_alone(page: Page, sandbox: Sandbox) -> None:
    """An impossible or empty percentage is not set. Other faults can be set beside it."""
    await page.locator("#faults summary").click()
    percent = page.get_by_label("reset: percent of the sends")
    await page.get_by_role("switch", name="reset").check()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    for impossible in ("101", ""):
        await percent.fill(impossible)
        await percent.press("Enter")
        await expect(page.locator(".percent:invalid")).to_have_count(1)
        await page.get_by_role("switch", name="html").check()
        await until(lambda: sandbox.faults == {"reset": 1.0, "html": 1.0})
        await expect(percent).to_have_value("100")
        await page.get_by_role("switch", name="html").uncheck()
        await until(lambda: sandbox.faults == {"reset": 1.0})


async def test_only_the_field_that_is_typed_in_is_left_alone(page: Page, sandbox: Sandbox) -> None:
    """Its switch follows a change from elsewhere, the field follows when left, and no later switch sets it back."""
    await page.locator("#faults summary").click()
    switch, percent = page.get_by_role("switch", name="reset"), page.get_by_label("reset: percent of the sends")
    await switch.check()
    await until(lambda: sandbox.faults == {"reset": 1.0})
    await percent.fill("50")
    await percent.press("Enter")
    await until(lambda: sandbox.faults == {"reset": 0.5})
    sandbox.faults = {}
    await expect(switch).not_to_be_checked()
    sandbox.faults = {"reset": 0.25}
    await expect(switch).to_be_checked()
    await expect(percent).to_have_value("50")
    await page.locator("#search").focus()
    await expect(percent).to_have_value("25")
    await percent.focus()
    sandbox.faults = {}
    await page.get_by_role("switch", name="html").check()
    await until(lambda: sandbox.faults != {})
    assert sandbox.faults == {"html": 1.0}


async def test_more_failing_attempts_than_the_page_may_set_stop_no_switch(page: Page, sandbox: Sandbox) -> None:
    """They become as many as it may set, and the page shows so."""
    await page.locator("#faults summary").click()
    sandbox.failing_attempts = 5000
    await expect(page.locator("#failing")).to_have_value("5000")
    await page.get_by_role("switch", name="html").check()
    await until(lambda: sandbox.faults == {"html": 1.0})
    await expect(page.locator("#failing")).to_have_value("999")
    assert sandbox.failing_attempts == 999


async def test_faults_set_one_after_the_other_are_all_set(page: Page, sandbox: Sandbox) -> None:
    """Switches that are thrown before the first is answered do not undo each other."""
    await page.locator("#faults summary").click()
    await page.evaluate("document.querySelectorAll('[role=switch]').forEach(it => it.click())")
    await until(lambda: len(sandbox.faults) == len(FAULTS))


async def test_a_switch_stays_put_until_it_is_answered(page: Page, sandbox: Sandbox) -> None:
    """A state that the sandbox sent before it was asked does not throw the switch back."""
    await page.locator("#faults summary").click()
    held = asyncio.Event()

    async def hold(route: Route) -> None:
        await held.wait()
        await route.continue_()

    await page.route("**/sandbox/faults", hold)
    await page.get_by_role("switch", name="html").check()
    sandbox.quota = 5
    await expect(page.locator("#quota")).to_have_text("5")
    await expect(page.get_by_role("switch", name="html")).to_be_checked()
    held.set()
    await until(lambda: sandbox.faults == {"html": 1.0})


async def test_a_switch_that_the_sandbox_refuses_goes_back(page: Page, sandbox: Sandbox, wrong: list[str]) -> None:
    """The page says that it failed and shows the played faults. Once connected anew it says so no longer."""
    await page.locator("#faults summary").click()
    switch, complaint = page.get_by_role("switch", name="html"), page.locator("#complaint")
    for refused in ["GET", "PUT"]:

        async def refuse(route: Route, *, refused: str = refused) -> None:
            await (route.fulfill(status=503) if route.request.method == refused else route.continue_())

        await page.route("**/sandbox/faults", refuse)
        await switch.click()
        await expect(complaint).to_have_text("The sandbox did not do as it was asked.")
        await expect(switch).not_to_be_checked()
        await page.unroute("**/sandbox/faults")
        await switch.check()
        await until(lambda: sandbox.faults == {"html": 1.0})
        await expect(complaint).to_have_text("")
        await switch.uncheck()
        await until(lambda: sandbox.faults == {})
    deliver(sandbox)
    await page.route("**/sandbox/entries", lambda route: route.fulfill(status=503))
    await page.get_by_role("button", name="Forget all").click()
    await page.get_by_role("button", name="Forget", exact=True).click()
    await expect(complaint).not_to_have_text("")
    await page.evaluate("watch()")
    await expect(complaint).to_have_text("")
    assert all("503" in line for line in wrong)
    wrong.clear()


async def test_a_refused_connection_is_tried_again(page: Page, sandbox: Sandbox, wrong: list[str]) -> None:
    """After an answer at which a browser gives up, the page connects again as soon as it may."""
    await page.clock.install()
    await page.route("**/sandbox/events", lambda route: route.fulfill(status=503))
    await page.reload()
    await expect(page.locator("#connection")).to_contain_text("trying again")
    await page.unroute("**/sandbox/events")
    await page.clock.fast_forward(2000)
    await expect(page.locator("#connection")).to_contain_text("watching")
    deliver(sandbox)
    await expect(page.locator("#messages .text")).to_have_text(TEXT)
    assert all("503" in line for line in wrong)
    wrong.clear()


async def test_a_hidden_page_holds_no_connection(page: Page, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is shown again catches up, and its messages keep focus and place."""
    watches = Watches(sandbox.inbox, monkeypatch)
    await until(lambda: watches.open)
    hide = "it => { Object.defineProperty(document, 'hidden', {value: it, configurable: true}); "
    hide += "document.dispatchEvent(new Event('visibilitychange')); }"
    for text in ["forgotten 111111", TEXT]:
        deliver(sandbox, text)
    await page.get_by_role("button", name="Copy 482913").focus()
    await page.evaluate(hide, True)
    await until(lambda: not watches.open)
    deliver(sandbox, "in the meantime")
    await page.evaluate(hide, False)
    await expect(page.locator("#messages .text")).to_have_text(["in the meantime", TEXT, "forgotten 111111"])
    await expect(page.get_by_role("button", name="Copy 482913")).to_be_focused()
    await page.evaluate(hide, True)
    await until(lambda: not watches.open)
    sandbox.inbox.clear()
    await page.evaluate(hide, False)
    await expect(page.locator("#messages li")).to_have_count(0)


async def test_the_code_is_copied(page: Page, client: AsyncOcaSms) -> None:
    """The button puts the text's code onto the clipboard. A text without a code has no button."""
    await client.send(PHONE, "no code in here")
    await client.send(PHONE, TEXT)
    await expect(page.locator("#messages li")).to_have_count(2)
    await expect(page.locator(".copy:visible")).to_have_count(1)
    await page.get_by_role("button", name="Copy 482913").click()
    await expect(page.locator("#said")).to_have_text("482913 is copied.")
    assert await page.evaluate("navigator.clipboard.readText()") == "482913"


async def test_copying_without_a_clipboard_keeps_the_focus(page: Page, sandbox: Sandbox) -> None:
    """On a page that was not loaded securely the code is copied too, or the page says that it failed."""
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    deliver(sandbox)
    button = page.get_by_role("button", name="Copy 482913")
    await button.press("Enter")
    await expect(page.locator("#said")).to_have_text("482913 is copied.")
    await expect(button).to_be_focused()
    await page.locator("#search").press("Control+v")
    await expect(page.locator("#search")).to_have_value("482913")
    await page.evaluate("document.execCommand = () => false")
    await button.press("Enter")
    await expect(page.locator("#said")).to_have_text("482913 could not be copied.")


async def test_what_became_of_copying_is_in_sight(page: Page, sandbox: Sandbox) -> None:
    """With a list of any length, the line about copying is in view."""
    for _ in range(20):
        deliver(sandbox)
    await page.locator(".copy").first.click()
    await expect(page.locator("#said")).to_have_text("482913 is copied.")
    await expect(page.locator("#said")).to_be_in_viewport(ratio=1)


async def test_markup_is_text(page: Page, client: AsyncOcaSms) -> None:
    """Markup in a message is shown as text: it does not run, and makes no element."""
    text = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"><b>482913</b>"
    await client.send(PHONE, text)
    await expect(page.locator("#messages .text")).to_have_text(text)
    assert await page.locator("#messages script, #messages img, #messages b").count() == 0
    assert await page.title() == "SMS sandbox"


async def test_forgetting_asks_first(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """The button asks, then forgets messages and refusals and says how many. Later messages are shown."""
    button = page.get_by_role("button", name="Forget all")
    await expect(button).to_be_disabled()
    sandbox.failing_attempts = 1
    await client.send(PHONE, TEXT)
    await expect(page.locator("#messages li")).to_have_count(2)
    await button.click()
    await expect(page.get_by_role("dialog", name="Forget 1 message and 1 refused request?")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()
    await button.click()
    await page.get_by_role("button", name="Keep").click()
    await expect(page.locator("#messages li")).to_have_count(2)
    assert len(sandbox.inbox) == 1
    await button.click()
    await page.get_by_role("button", name="Forget", exact=True).click()
    await expect(page.locator("#messages li")).to_have_count(0)
    await expect(page.locator("#said")).to_have_text("Forgotten: 1 message and 1 refused request.")
    await expect(page.locator("#refused")).to_have_text("0")
    assert len(sandbox.inbox) == 0
    await client.send(PHONE, "the next")
    await expect(page.locator("#messages .text")).to_have_text(["the next", re.compile("Played on purpose")])


async def test_the_rate_is_shown_against_the_limit(page: Page, client: AsyncOcaSms, sandbox: Sandbox) -> None:
    """With a limit the page shows the requests of the last second against it, and the refusals."""
    await expect(page.locator("#meter")).to_be_hidden()
    sandbox.rate_limit = 2
    sandbox.quota = 5
    results = await asyncio.gather(*(client.send(PHONE, f"{n}") for n in range(3)), return_exceptions=True)
    assert sum(isinstance(it, OcaSmsError) for it in results) == 1
    await expect(page.locator("#refusals")).to_have_text("1 × rate-limited")
    await expect(page.locator("#rate")).to_have_text("0 of 2")  # in the end
    await expect(page.locator("#quota")).to_have_text("3")
    await expect(page.get_by_role("meter", name="requests in the last second")).to_be_visible()


@pytest.mark.parametrize("width", [375, 1000])
async def test_nothing_overflows(page: Page, client: AsyncOcaSms, sandbox: Sandbox, width: int) -> None:
    """At a phone's width and at a desk's nothing is wider than the page: long words and open switches too."""
    await page.set_viewport_size({"width": width, "height": 700})
    sandbox.rate_limit = 25
    sandbox.when(PHONE).respond("internal-error", times=3)
    await client.send(PHONE, "https://example.com/" + "x" * 120 + " 482913")
    await page.locator("#faults summary").click()
    await expect(page.locator("#messages li")).to_have_count(4)
    await page.locator("#access summary").click()
    overflowing = await page.evaluate(
        "[...document.querySelectorAll('body *')].filter(it => it.getBoundingClientRect().right > innerWidth + 1)"
        ".map(it => it.outerHTML)"
    )
    assert overflowing == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_the_keyboard_reaches_everything(page: Page, client: AsyncOcaSms) -> None:
    """Tab reaches the switches, the search, and a message's button, and each shows its focus."""
    await client.send(PHONE, TEXT)
    await expect(page.locator("#messages li")).to_have_count(1)
    await page.locator("#faults summary").focus()
    await page.keyboard.press("Enter")
    await page.get_by_role("switch").first.check()
    await expect(page.locator(".percent:enabled")).to_have_count(1)
    await page.locator("#faults summary").focus()
    reached = []
    for _ in range(len(FAULTS) + 8):
        await page.keyboard.press("Tab")
        reached.append(
            await page.evaluate(
                "document.activeElement.className || document.activeElement.id || document.activeElement.value"
            )
        )
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if reached[-1] == "copy":
            break
    assert {"percent", "failing", "search", "all", "clear", "copy"} <= set(reached)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
async def test_the_page_follows_the_scheme(page: Page, scheme: str, dark: bool) -> None:
    """In dark mode the ground is dark and the ink is light, and the other way round."""
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    brightness = await page.evaluate(
        "['backgroundColor', 'color'].map(it => getComputedStyle(document.body)[it].match(/\\d+/g)"
        ".reduce((sum, part) => sum + +part, 0) / 3)"
    )
    ground, ink = [part < 128 for part in brightness]
    assert (ground, ink) == (dark, not dark)


# Of two opaque colours, by WCAG 2.
CONTRAST = """
([one, other]) => {
  const luminance = (color) => {
    const [red, green, blue] = color.match(/[\\d.]+/g).map(it => it / 255)
      .map(it => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [less, more] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (more + 0.05) / (less + 0.05);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_controls_and_hints_stand_out(page: Page, sandbox: Sandbox, scheme: Literal["light", "dark"]) -> None:
    """Borders of controls have a contrast of 3 to both their sides, and the search's hint has 4.5."""
    await page.emulate_media(color_scheme=scheme)
    await page.locator("#faults summary").click()
    deliver(sandbox)
    await expect(page.locator(".copy")).to_be_visible()
    await page.get_by_role("switch", name="reset").check()
    await expect(page.locator(".percent:enabled")).to_have_count(1)
    for name in ["#search", "#clear", "#failing", ".percent:enabled", ".copy"]:
        border, inside, card, ground = await page.locator(name).first.evaluate(
            "it => [getComputedStyle(it).borderTopColor, getComputedStyle(it).backgroundColor,"
            "getComputedStyle(document.querySelector('li')).backgroundColor,"
            "getComputedStyle(document.body).backgroundColor]"
        )
        for side in (inside, card, ground):
            assert await page.evaluate(CONTRAST, [border, side]) >= 3
    hint, inside, opacity = await page.locator("#search").evaluate(
        "it => [getComputedStyle(it, '::placeholder').color, getComputedStyle(it).backgroundColor,"
        "getComputedStyle(it, '::placeholder').opacity]"
    )
    assert await page.evaluate(CONTRAST, [hint, inside]) >= 4.5
    assert opacity == "1"


async def test_a_picture_of_it_is_in_the_documents(
    page: Page, client: AsyncOcaSms, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docs/tests.md` shows the page as it is drawn here; `OCA_SMS_TEST_SCREENSHOT` names a file to renew it."""
    sandbox.rate_limit = 25
    for n, (brand, code) in enumerate([("Acme", "482913"), ("Zenith", "0417"), ("Acme", "730 255")]):
        sandbox.failing_attempts = n
        await client.send(f"+628138147515{n}", f"{brand}: {code} adalah kode OTP Anda. Jangan berikan ke siapa pun.")
    monkeypatch.setattr(_inbox, "monotonic", lambda: monotonic() + 60)
    await expect(page.locator(".status[data-status=delivered]")).to_have_count(3)
    size = {"width": 800, "height": 740}
    await page.set_viewport_size({"width": size["width"], "height": size["height"]})
    drawn = await page.screenshot(path=os.environ.get("OCA_SMS_TEST_SCREENSHOT"))
    assert struct.unpack(">II", drawn[16:24]) == (size["width"], size["height"])
    (picture,) = re.findall(r"!\[[^]]*\]\((\S*inbox\.png)\)", read(DOCS / "tests.md"))
    assert struct.unpack(">II", (DOCS / picture).read_bytes()[16:24]) == (size["width"], size["height"])
