"""An identity provider for one client: OpenID Connect with authorization code, PKCE, nonce and signed ID tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "studio", "the client's secret"
FORM = """<!doctype html><title>Provider</title><form action="/agree"><label>Who <input name="sub"></label>
<input type="hidden" name="of" value="{}"><button>Agree</button></form>"""


class Provider:
    """
    Attributes:
        wrong: what is wrong with the next ID tokens: "key", "nonce", "aud" or nothing.
        age: how many seconds ago they say they were issued.
        ended: how many people have logged out of it.
    """

    def __init__(self) -> None:
        self.wrong, self.age, self.ended = "", 0, 0
        self._key, self._other = (RSAKey.generate_key(2048, {"kid": "one"}) for _ in range(2))
        self._asked: dict[str, dict] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Provider]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield self
        self._server.shutdown()
        self._server.server_close()
        thread.join()

    def _handler(provider) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self._send(*provider.get(parts.path, query))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                self._send(200, provider.token(form, self.headers.get("authorization", "")))

            def _send(self, status: int, content: str | dict) -> None:
                self.send_response(status)
                if status == 302:
                    self.send_header("location", content)
                    content = ""
                is_page = isinstance(content, str)
                content = (content if is_page else json.dumps(content)).encode()
                self.send_header("content-type", "text/html" if is_page else "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def get(self, path: str, query: dict[str, str]) -> tuple[int, str | dict]:
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys",
                "end_session_endpoint": f"{self.url}/end", "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
                "code_challenge_methods_supported": ["S256"],
            }  # fmt: skip
        if path == "/keys":
            return 200, {"keys": [self._key.as_dict(private=False, use="sig", alg="RS256")]}
        if path == "/authorize":
            assert query["client_id"] == CLIENT and query["response_type"] == "code" and "openid" in query["scope"]
            assert query["code_challenge_method"] == "S256" and query["nonce"] and query["state"]
            code = secrets.token_urlsafe(16)
            self._asked[code] = query
            return 200, FORM.format(code)
        if path == "/agree":
            asked = self._asked[query["of"]]
            asked["sub"] = query["sub"]
            return 302, asked["redirect_uri"] + "?" + urlencode({"code": query["of"], "state": asked["state"]})
        if path == "/end":
            self.ended += 1
            return 302, query["post_logout_redirect_uri"]
        return 404, "There is no such page"

    def token(self, form: dict[str, str], authorization: str) -> dict:
        """Whoever has the code, the verifier of its challenge, and the client's secret gets the tokens, once."""
        asked = self._asked.pop(form["code"])
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        assert challenge.decode() == asked["code_challenge"] and form["redirect_uri"] == asked["redirect_uri"]
        assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"{CLIENT}:{SECRET}"
        now = int(time.time()) - self.age
        claims = {
            "iss": self.url, "sub": asked["sub"], "iat": now, "exp": now + 24 * 3600,
            "aud": "another" if self.wrong == "aud" else CLIENT,
            "nonce": "another" if self.wrong == "nonce" else asked["nonce"],
        }  # fmt: skip
        key = self._other if self.wrong == "key" else self._key
        id_token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, key)
        return {"access_token": "opaque", "token_type": "Bearer", "expires_in": 3600, "id_token": id_token}
