"""The link that `everhook dev` prints: it signs one visitor in, within five minutes."""

from api.dashboard.sign_in_link import LIFETIME_S, SignInLinks, make_link
from tests.dashboard.conftest import Pages, browsing


def path_of_link(pages: Pages) -> str:
    return make_link(pages.api.app, "http://everhook.test").removeprefix("http://everhook.test")


async def test_a_link_signs_in_once_and_only_by_its_button(pages: Pages) -> None:
    path = path_of_link(pages)
    for _ in range(2):  # looking at it uses nothing up
        assert "Open the dashboard" in (await pages.get(path)).text
    assert (await pages.get("/")).status_code == 303
    token = path.rpartition("/")[2]
    first = await pages.http.post("/sign-in/link", data={"token": token})
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert (await pages.get("/keys")).status_code == 200
    for again in (await pages.get(path), await pages.http.post("/sign-in/link", data={"token": token})):
        assert (again.status_code, again.headers["location"]) == (303, "/"), "this visitor is signed in"
    async with browsing(pages.api) as other:
        assert (await other.http.post("/sign-in/link", data={"token": token})).status_code == 410
        assert (await other.get(path)).status_code == 410
        assert (await other.get("/")).status_code == 303


async def test_an_invalid_link_does_not_sign_in(pages: Pages) -> None:
    for token in ("", "x" * 32):
        response = await pages.http.post("/sign-in/link", data={"token": token})
        assert response.status_code == 410 and "set-cookie" not in response.headers
    assert (await pages.get("/sign-in/link/nonsense")).status_code == 410


async def test_a_link_is_not_opened_from_another_site(pages: Pages) -> None:
    token = path_of_link(pages).rpartition("/")[2]
    headers = {"sec-fetch-site": "cross-site"}
    assert (await pages.http.post("/sign-in/link", data={"token": token}, headers=headers)).status_code == 403


def test_a_link_lasts_five_minutes() -> None:
    now = 1_000.0
    links = SignInLinks(clock=lambda: now)
    late, in_time = links.make(), links.make()
    now += LIFETIME_S - 1
    assert links.is_good(late) and links.redeem(in_time)
    now += 1
    assert not links.is_good(late) and not links.redeem(late)
    assert LIFETIME_S == 5 * 60


async def test_the_page_to_sign_in_says_where_the_key_is(pages: Pages) -> None:
    page = (await pages.get("/sign-in")).text
    assert ".everhook/api-key" in page and "everhook keys create" in page
