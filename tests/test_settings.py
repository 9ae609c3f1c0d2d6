"""A client's settings, from its constructor or the environment. Wrong values are named, and secrets never shown."""

import asyncio
import base64
import pydoc
import traceback
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oca_sms_async import AsyncOcaSms, PremiumV1, PremiumV2, RegularV1, RegularV2, RetryPolicy, Unlimited
from oca_sms_async._wire import Api
from oca_sms_async._wire._environment import api_from_env, needed_variables

SECRET = "Quagga"  # stands in every value that is refused, and must never show
PUBLISHED = "https://sms.ocatelkom.co.id/api/v1"
ENVIRON = {"OCA_SMS_USERNAME": "ann@acme.test", "OCA_SMS_PASSWORD": "tops3cret"}
GOOD: dict[str, Any] = {"username": "ann@acme.test", "password": "tops3cret"}


def refused(**wrong: Any) -> ValueError:
    """Return the error for a value that the constructor refuses, after a look for the secret in all of it."""
    with pytest.raises(ValueError, match=r"^\w+ must ") as caught:
        AsyncOcaSms(**{**GOOD, **wrong})
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in f"{caught.value!r} {caught.value.args} {vars(caught.value)}"
    assert GOOD["password"] not in f"{caught.value} {caught.value!r}"
    return caught.value


def refused_environment(environ: Mapping[str, str], **options: Any) -> ValueError:
    """Return the error for an environment that is refused."""
    with pytest.raises(ValueError, match=r"^\w+ (must|is) ") as caught:
        AsyncOcaSms.from_env(environ, **options)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


async def request_of(environ: Mapping[str, str], **options: Any) -> httpx.Request:
    """Return the request of a client that was made from an environment."""
    requests = list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=[])

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as lent:
        client = AsyncOcaSms.from_env(environ, http_client=lent, limiter=Unlimited(), **options)
        assert await client.history() == []
    (request,) = requests
    return request


def basic(username: str, password: str) -> str:
    """Write credentials as HTTP Basic does."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


# Credentials


@pytest.mark.parametrize(
    "username",
    [
        *("", None, 5, b"Quagga", ["Quagga"], "Qua:gga", "Quagga:", ":", "Quagga\n", "\x00Quagga", "Qua\tgga"),
        *("Quagga\x7f", "Quagga\x85", "\r\nQuagga", "Quagga\udce9"),
    ],
)
def test_username(username: object) -> None:
    """A username is refused where HTTP Basic cannot carry it: empty, with a colon, with a control character."""
    assert str(refused(username=username)).startswith("username ")


@pytest.mark.parametrize(
    "password",
    [
        *("", None, 5, b"Quagga", ["Quagga"], "Quagga\udce9"),
        *("Quagga\n", "Quagga\r\n", "Quagga\r", "Qua\tgga", "\x00Quagga", "Quagga\x7f", "Quagga\x85"),
    ],
)
def test_password(password: object) -> None:
    """A password is a text with a UTF-8 form and without a control character, such as the line end of its file."""
    assert str(refused(password=password)).startswith("password ")


@pytest.mark.parametrize(("username", "password"), [("a", ":"), ("a b", "p:w"), ("é", "pässwörd"), ("a@b.test", " ")])
async def test_usual_credentials(username: str, password: str) -> None:
    """Other credentials go out unchanged, in UTF-8."""
    request = await request_of({}, username=username, password=password)
    assert request.headers["Authorization"] == basic(username, password)


def test_repr_shows_no_credentials() -> None:
    """The repr of a client shows its URL and no credential."""
    client = AsyncOcaSms("Quagga@acme.test", "Quagga-secret")
    assert PUBLISHED in repr(client)
    assert SECRET not in repr(client)
    assert basic("Quagga@acme.test", "Quagga-secret").split()[1] not in repr(client)


# The URL


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        " ",
        "Quagga",
        "/Quagga/api",
        "//Quagga.test/api/v1",
        "Quagga.test/api/v1",
        "https://",
        "https:///Quagga",
        "https:/Quagga.test",
        "https://:443/Quagga",
        "https://Quagga.test:port",
        "https://[::1/Quagga",
        "https://Quagga test/api",
        "https://Quagga.test/api v1",
        "https://Quagga.test/\n",
        "https://Quagga.test/\tapi",
        " https://Quagga.test",
        "https://Quagga.test/api?key=Quagga",
        "https://Quagga.test/api#Quagga",
        "https://Quagga@gateway.test",
        "https://user:Quagga@gateway.test/api/v1",
        "https://user:Quagga/7@gateway.test",
        "https://:@Quagga.test",
        "http://user:Quagga@localhost:8080",
        "ftp://Quagga.test",
        "ws://localhost/Quagga",
        "file:///Quagga",
        "file://localhost/Quagga",
        "httpss://Quagga.test",
        5,
        ["https://Quagga.test"],
    ],
)
@pytest.mark.parametrize("allow_http", [False, True])
def test_base_url(base_url: object, *, allow_http: bool) -> None:
    """A base URL is refused if it is no URL or holds credentials, a query or a fragment. It is not shown."""
    assert str(refused(base_url=base_url, allow_http=allow_http)).startswith("base_url ")


@pytest.mark.parametrize(
    "base_url",
    [
        "http://localhost",
        "http://localhost:8080/api/v1",
        "http://LocalHost:8080",
        "http://127.0.0.1:8080/api/v1",
        "http://127.9.8.7",
        "http://[::1]",
        "http://[::1]:8080/api/v1",
        "HTTP://127.0.0.1",
    ],
)
def test_plain_http_on_loopback(base_url: str) -> None:
    """Plain http is allowed to this machine, because no one else can listen."""
    assert base_url in repr(AsyncOcaSms("user", "password", base_url=base_url))


@pytest.mark.parametrize(
    "base_url",
    [
        "http://sms.ocatelkom.co.id/api/v1",
        "http://sandbox:8080/api/v1",
        "http://10.0.0.1",
        "http://192.168.1.1:8080",
        "http://0.0.0.0:8080",
        "http://[::]:8080",
        "http://[2001:db8::1]",
        "http://localhost.quagga.test",
        "http://127.0.0.1.quagga.test",
        "http://notlocalhost",
        "http://quagga.test/localhost",
        "HTTP://gateway.test",
    ],
)
def test_plain_http_beyond_loopback(base_url: str) -> None:
    """Plain http to another machine would show the credentials. It needs an option, and the error names it."""
    assert "allow_http=True" in str(refused(base_url=base_url))
    assert base_url in repr(AsyncOcaSms("user", "password", base_url=base_url, allow_http=True))


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://gateway.test", "https://gateway.test/sms"),
        ("https://gateway.test/", "https://gateway.test/sms"),
        ("https://gateway.test/api/v1", "https://gateway.test/api/v1/sms"),
        ("https://gateway.test/api/v1/", "https://gateway.test/api/v1/sms"),
        ("HTTPS://gateway.test:8443/api", "https://gateway.test:8443/api/sms"),
        ("https://[2001:db8::1]/api", "https://[2001:db8::1]/api/sms"),
    ],
)
async def test_url_of_a_request(base_url: str, url: str) -> None:
    """Requests go below the base URL, with or without a slash at its end."""
    assert str((await request_of(ENVIRON, base_url=base_url)).url) == url


# Numbers and region


@pytest.mark.parametrize(
    "timeout",
    [
        0,
        -1,
        -0.5,
        float("nan"),
        float("inf"),
        float("-inf"),
        None,
        True,
        False,
        "Quagga",
        "5",
        timedelta(seconds=5),
        [5],
    ],
)
def test_timeout(timeout: object) -> None:
    """A time-out is a finite number of seconds above 0."""
    assert str(refused(timeout=timeout)).startswith("timeout ")


@pytest.mark.parametrize("timeout", [1, 0.001, 3600.0])
def test_usual_timeouts(timeout: float) -> None:
    """Whole seconds and fractions are accepted."""
    AsyncOcaSms("user", "password", timeout=timeout)


@pytest.mark.parametrize("region", ["", "id", "IDN", "Quagga", "62", "001", "ZZ", None, 62])
def test_region(region: object) -> None:
    """A region is the code of a country in capitals."""
    assert str(refused(region=region)).startswith("region ")


# The environment


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        (ENVIRON, PUBLISHED),
        ({**ENVIRON, "OCA_SMS_BASE_URL": ""}, PUBLISHED),
        ({**ENVIRON, "OCA_SMS_ALLOW_HTTP": ""}, PUBLISHED),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "https://gateway.test/"}, "https://gateway.test"),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "http://sandbox", "OCA_SMS_ALLOW_HTTP": "1"}, "http://sandbox"),
        ({**ENVIRON, "USERNAME": "bob", "OCA_SMS_REGION": "ZZ", "OCA_SMS_TIMEOUT": "x"}, PUBLISHED),
    ],
)
async def test_environment(environ: dict[str, str], url: str) -> None:
    """Credentials and URL come from four variables and no others. An empty variable counts as missing."""
    request = await request_of(environ)
    assert str(request.url) == f"{url}/sms"
    assert request.headers["Authorization"] == basic("ann@acme.test", "tops3cret")


def test_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, `from_env` reads the environment of the process as it is at that moment."""
    for variable in ("OCA_SMS_ALLOW_HTTP", "OCA_SMS_API", "OCA_SMS_TOKEN", "OCA_SMS_SENDER_ID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {**ENVIRON, "OCA_SMS_BASE_URL": "https://gateway.test"}.items():
        monkeypatch.setenv(variable, value)
    assert "https://gateway.test" in repr(AsyncOcaSms.from_env())
    monkeypatch.delenv("OCA_SMS_PASSWORD")
    with pytest.raises(ValueError, match="OCA_SMS_PASSWORD"):
        AsyncOcaSms.from_env()


@pytest.mark.parametrize("variable", ["OCA_SMS_USERNAME", "OCA_SMS_PASSWORD"])
@pytest.mark.parametrize("rest", [{}, {"empty": ""}])
def test_missing_variable(variable: str, rest: dict[str, str]) -> None:
    """The error names the variable that is missing."""
    environ = {name: SECRET for name in ENVIRON if name != variable} | dict.fromkeys([variable] if rest else [], "")
    assert variable in str(refused_environment(environ))


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({**ENVIRON, "OCA_SMS_USERNAME": "Qua:gga"}, "username"),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "Quagga"}, "base_url"),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "https://user:Quagga@gateway.test"}, "base_url"),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "http://quagga.test"}, "base_url"),
        ({**ENVIRON, "OCA_SMS_BASE_URL": "http://quagga.test", "OCA_SMS_ALLOW_HTTP": "0"}, "base_url"),
        ({**ENVIRON, "OCA_SMS_ALLOW_HTTP": "Quagga"}, "OCA_SMS_ALLOW_HTTP"),
        ({**ENVIRON, "OCA_SMS_ALLOW_HTTP": " "}, "OCA_SMS_ALLOW_HTTP"),
        ({**ENVIRON, "OCA_SMS_ALLOW_HTTP": "2"}, "OCA_SMS_ALLOW_HTTP"),
    ],
)
def test_wrong_variable(environ: dict[str, str], field: str) -> None:
    """A value from the environment is checked as an option is."""
    assert str(refused_environment(environ)).startswith(field)


@pytest.mark.parametrize("word", ["1", "true", "yes", "on", "TRUE", "Yes", " on "])
def test_switched_on(word: str) -> None:
    """Each of these words switches plain http on, in any case and with spaces round it."""
    environ = {**ENVIRON, "OCA_SMS_BASE_URL": "http://sandbox", "OCA_SMS_ALLOW_HTTP": word}
    assert "http://sandbox" in repr(AsyncOcaSms.from_env(environ))


@pytest.mark.parametrize("word", ["0", "false", "no", "off", "FALSE", "No", " off ", ""])
def test_switched_off(word: str) -> None:
    """Each of these words leaves plain http off."""
    environ = {**ENVIRON, "OCA_SMS_BASE_URL": "http://sandbox", "OCA_SMS_ALLOW_HTTP": word}
    assert "allow_http=True" in str(refused_environment(environ))


async def test_given_options_win() -> None:
    """An option that is given wins over its variable. The variable may be missing."""
    environ = {**ENVIRON, "OCA_SMS_BASE_URL": "http://sandbox", "OCA_SMS_ALLOW_HTTP": "no"}
    request = await request_of(environ, username="bob", password="pw", base_url="http://other", allow_http=True)
    assert str(request.url) == "http://other/sms"
    assert request.headers["Authorization"] == basic("bob", "pw")
    request = await request_of({"OCA_SMS_PASSWORD": "tops3cret"}, username="bob")
    assert request.headers["Authorization"] == basic("bob", "tops3cret")
    request = await request_of({}, username="bob", password="pw")
    assert request.headers["Authorization"] == basic("bob", "pw")


def test_given_refusal_of_plain_http_wins() -> None:
    """An option that is given also wins where it forbids."""
    environ = {**ENVIRON, "OCA_SMS_BASE_URL": "http://sandbox", "OCA_SMS_ALLOW_HTTP": "1"}
    assert "allow_http=True" in str(refused_environment(environ, allow_http=False))


def test_other_options_go_to_the_constructor() -> None:
    """Options without a variable go to the constructor, and it checks them."""
    assert str(refused_environment(ENVIRON, timeout=0)).startswith("timeout ")
    assert str(refused_environment(ENVIRON, region="zz")).startswith("region ")
    with pytest.raises(TypeError, match="tiemout"):
        AsyncOcaSms.from_env(ENVIRON, tiemout=5)  # type: ignore[call-arg] # this is the point


def test_subclass_makes_its_own_kind() -> None:
    """`from_env` of a subclass returns an instance of the subclass."""

    class Ours(AsyncOcaSms):
        """A subclass."""

    assert type(Ours.from_env(ENVIRON)) is Ours


# The environment's API


TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJvY2EifQ.c2lnbmF0dXJl"
BASIC_VARIABLES = {"OCA_SMS_USERNAME": "ann@acme.test", "OCA_SMS_PASSWORD": "tops3cret"}
TOKEN_VARIABLES = {"OCA_SMS_TOKEN": f"Bearer {TOKEN}\n"}
SENDER_VARIABLES = {"OCA_SMS_SENDER_ID": "Acme"}
ACCOUNTS: dict[str, tuple[dict[str, str], Api]] = {
    "regular-v1": (BASIC_VARIABLES, RegularV1("ann@acme.test", "tops3cret")),
    "regular-v2": (TOKEN_VARIABLES, RegularV2(TOKEN)),
    "premium-v1": (BASIC_VARIABLES | SENDER_VARIABLES, PremiumV1("ann@acme.test", "tops3cret", sender_id="Acme")),
    "premium-v2": (TOKEN_VARIABLES | SENDER_VARIABLES, PremiumV2(TOKEN, sender_id="Acme")),
}
WORDS = {"regular-v1": "", "regular-v2": "regular-v2", "premium-v1": "Premium-V1", "premium-v2": " premium-v2\n"}


@pytest.mark.parametrize("name", ACCOUNTS)
def test_api_of_an_environment(name: str) -> None:
    """`OCA_SMS_API` names the API in any case, and V1 without it. The needed variables come in a fixed order."""
    variables, expected = ACCOUNTS[name]
    environ = {**variables, "OCA_SMS_API": WORDS[name]}
    assert api_from_env(environ) == expected
    assert type(api_from_env(environ)) is type(expected)
    assert [variable.name for variable in needed_variables(environ)] == [*variables]
    assert expected.base_url in repr(AsyncOcaSms.from_env(environ))


def test_prompts() -> None:
    """Each variable has words to ask for it with, and knows if it is a secret."""
    variables = [*needed_variables({"OCA_SMS_API": "premium-v1"}), *needed_variables({"OCA_SMS_API": "regular-v2"})]
    assert [(it.prompt, it.secret) for it in variables] == [
        ("OCA username", False),
        ("OCA password", True),
        ("OCA sender ID", False),
        ("OCA token", True),
    ]


@pytest.mark.parametrize("name", ACCOUNTS)
def test_each_missing_variable_is_named(name: str) -> None:
    """The error names all variables that the API needs and that are missing, and shows no value."""
    variables, _ = ACCOUNTS[name]
    for missing in variables:
        environ = {**dict.fromkeys(variables, SECRET), missing: "", "OCA_SMS_API": name}
        assert str(refused_environment(environ)) == f"{missing} is not set in the environment"
    error = str(refused_environment({"OCA_SMS_API": name}))
    assert [part.split()[0] for part in error.split("; ")] == [*variables]


@pytest.mark.parametrize("name", ["regular-v3", "v1", "regular v1", SECRET])
def test_unknown_api(name: str) -> None:
    """The error for an unknown API names the variable and the known ones, and does not show the value."""
    said = "OCA_SMS_API must be one of regular-v1, regular-v2, premium-v1, premium-v2"
    assert str(refused_environment({**ENVIRON, "OCA_SMS_API": name})) == said
    with pytest.raises(ValueError, match=f"^{said}$"):
        needed_variables({"OCA_SMS_API": name})


@pytest.mark.parametrize(
    ("name", "surplus", "said"),
    [
        ("", "OCA_SMS_TOKEN", "is for regular-v2 or premium-v2, but OCA_SMS_API is not set"),
        ("", "OCA_SMS_SENDER_ID", "is for premium-v1 or premium-v2, but OCA_SMS_API is not set"),
        ("regular-v1", "OCA_SMS_SENDER_ID", "is for premium-v1 or premium-v2, but OCA_SMS_API is regular-v1"),
        ("regular-v2", "OCA_SMS_PASSWORD", "is for regular-v1 or premium-v1, but OCA_SMS_API is regular-v2"),
        ("premium-v1", "OCA_SMS_TOKEN", "is for regular-v2 or premium-v2, but OCA_SMS_API is premium-v1"),
        ("premium-v2", "OCA_SMS_USERNAME", "is for regular-v1 or premium-v1, but OCA_SMS_API is premium-v2"),
    ],
)
def test_contradiction(name: str, surplus: str, said: str) -> None:
    """A variable of another API is named. Messages could go out from the wrong account, or without their sender."""
    environ = {**ACCOUNTS[name or "regular-v1"][0], surplus: SECRET, "OCA_SMS_API": name}
    assert str(refused_environment(environ)) == f"{surplus} {said}"
    with pytest.raises(ValueError, match=rf"^{surplus} {said}$"):
        needed_variables(environ)


def test_given_credentials_of_another_api() -> None:
    """A credential that is given must belong to the API, too."""
    with pytest.raises(ValueError, match=r"^token is for regular-v2 or premium-v2, but OCA_SMS_API is not set"):
        AsyncOcaSms.from_env({}, token=SECRET)
    api = api_from_env({"OCA_SMS_API": "premium-v2", "OCA_SMS_TOKEN": "other"}, {"token": TOKEN, "sender_id": "Acme"})
    assert api == ACCOUNTS["premium-v2"][1]


def test_given_api_needs_no_variable() -> None:
    """With an API that is given, no credential is looked for in the environment."""
    assert "webapigw" in repr(AsyncOcaSms.from_env({}, api=RegularV2(TOKEN)))


# Loops


@pytest.mark.parametrize("make", [lambda: AsyncOcaSms("user", "password"), lambda: AsyncOcaSms.from_env(ENVIRON)])
def test_constructor_needs_no_loop(make: Any) -> None:
    """A client can be made without a running loop, as at a module's import, and closed in one or in several."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    client = make()
    for _ in range(2):
        asyncio.run(client.aclose())


any_text = st.text(st.characters(exclude_categories=()), max_size=10) | st.text(max_size=10)


@settings(deadline=None)  # a busy machine must not fail a test
@given(any_text, any_text)
def test_any_credentials_are_taken_or_refused(username: str, password: str) -> None:
    """Any two texts make a client, or a `ValueError` that names one of them."""
    odd = {*map(chr, range(32)), *map(chr, range(127, 160))}
    if (
        username
        and password
        and ":" not in username
        and not set(username + password) & odd
        and not any("\ud800" <= c <= "\udfff" for c in username + password)
    ):
        AsyncOcaSms(username, password)
    else:
        with pytest.raises(ValueError, match=r"^(username|password) must "):
            AsyncOcaSms(username, password)


@pytest.mark.parametrize(
    "url",
    [
        "https://a.test:99999",
        "https://a.test:0",
        "https://a.test/v1?",
        "https://a.test/v1#",
        "https://a.test/\udce9",
        "https://xn--a/",
        5,
    ],
)
def test_base_urls_that_no_request_could_use(url: Any) -> None:
    """Such a URL is refused by the constructor. At the first send it would look like doubt, or lead elsewhere."""
    with pytest.raises(ValueError, match=r"^base_url "):
        AsyncOcaSms("u", "p", base_url=url)


@pytest.mark.parametrize("wrong", [{"timeout": 10**400}, {"region": []}, {"region": "id"}])
def test_wrong_values_of_any_kind_name_their_field(wrong: dict[str, Any]) -> None:
    """For a value of any kind, the error is a `ValueError` that names the option."""
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} "):
        AsyncOcaSms("u", "p", **wrong)


@pytest.mark.parametrize("wrong", [{"retry": None}, {"retry": RetryPolicy}, {"http_client": httpx.Client}])
def test_options_for_after_the_request_are_checked_before(wrong: dict[str, Any]) -> None:
    """A wrong value is refused by the constructor. After the request, its error would not answer for the message."""
    with pytest.raises(TypeError, match=rf"^{next(iter(wrong))} must be an? "):
        AsyncOcaSms("u", "p", **wrong)


def test_help_does_not_show_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's help shows the default of a parameter, and a page made of docstrings would publish it."""
    monkeypatch.setenv("OCA_SMS_PASSWORD", "hunter2marker")
    page = pydoc.render_doc(AsyncOcaSms)
    assert "Mapping[str, str] = os.environ" in page
    assert "hunter2marker" not in page


def test_an_option_wins_over_a_variable_that_is_wrong() -> None:
    """The variable of an option that is given is not read."""
    AsyncOcaSms.from_env({"OCA_SMS_ALLOW_HTTP": "maybe"}, username="u", password="p", allow_http=False)
