"""The admin as people and programs meet it: pages with a password, the REST API with a token."""

import html
import re
from urllib.parse import urlencode

from aforo_admin.control.roles import Role
from demo.checks import check
from demo.people import People
from lab.http_client import Answer, HttpClient

LOGIN = "/admin/login/"


class Control:
    """One `aforo-admin serve`, and the people of this run."""

    def __init__(self, url: str, people: People) -> None:
        self.url = url
        self.people = people

    async def change(
        self, role: Role, method: str, path: str, value: object = None, *, reason: str
    ) -> Answer:
        """Ask the API for a change, as a program of this role's; return what it says."""
        headers = {
            "authorization": f"Bearer {self.people.tokens[role]}",
            "x-aforo-reason": reason,
            **({"if-match": "*"} if method != "POST" else {}),
        }
        async with HttpClient(self.url) as client:
            return await client.send(method, f"/api/v1{path}", headers=headers, value=value)

    async def sign_in(self, role: Role) -> str:
        """Sign in on the page for it; return the cookies that a browser would send from then on."""
        async with HttpClient(self.url) as client:
            form = await client.get(LOGIN)
            said = {
                "csrfmiddlewaretoken": _csrf_token(form),
                "username": role,
                "password": self.people.password,
            }
            headers = {
                "cookie": _cookies(form),
                "content-type": "application/x-www-form-urlencoded",
                "origin": self.url,
            }
            answer = await client.send(
                "POST", LOGIN, headers=headers, body=urlencode(said).encode()
            )
        check(answer.status == 302, f"{role} signed in, 302", answer.status)
        return _cookies(answer)

    async def words(self, path: str, cookies: str) -> str:
        """Return the words of a page, without what a browser makes of them."""
        async with HttpClient(self.url) as client:
            answer = await client.get(path, headers={"cookie": cookies})
        check(answer.status == 200, f"200 of {path}", answer.status)
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def _csrf_token(page: Answer) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
    check(found, "a form to sign in", page.status)
    assert found is not None, "checked"
    return found[1]


def _cookies(answer: Answer) -> str:
    pairs = [value.partition(";")[0] for name, value in answer.headers if name == "set-cookie"]
    return "; ".join(pairs)
