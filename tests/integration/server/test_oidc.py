"""The OIDC identity provider against an issuer on loopback: who is let in, and every way not to be."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jupyter_process import STUB, JupyterProcess

jwt = pytest.importorskip("jwt", reason="needs the extra oidc")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa", reason="needs the extra oidc")

AUDIENCE, TENANT = "fleet-app", "11111111-2222-3333-4444-555555555555"


class Issuer:
    """Publishes keys and signs tokens."""

    def __init__(self) -> None:
        self.keys = {"k1": rsa.generate_private_key(65537, 2048)}
        issuer = self

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"keys": [issuer.public(kid) for kid in issuer.keys]}).encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def public(self, kid: str) -> dict[str, str]:
        made = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.keys[kid].public_key()))
        return {**made, "kid": kid, "use": "sig", "alg": "RS256"}

    def token(self, kid="k1", key=None, algorithm="RS256", leave_out=(), **claims) -> str:
        now = int(time.time())
        said = {"iss": f"{self.url}/{TENANT}/v2.0", "aud": AUDIENCE, "tid": TENANT, "oid": "ann", "iat": now}
        said = {**said, "exp": now + 600, "name": "Ann Other", **claims}
        said = {name: value for name, value in said.items() if name not in leave_out}
        return jwt.encode(said, key or self.keys[kid], algorithm=algorithm, headers={"kid": kid})


@pytest.fixture(scope="module")
def issuer():
    made = Issuer()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def server(issuer, tmp_path_factory):
    config = f"""
c = get_config()
c.FleetApp.worker_command = {STUB!r}
c.ServerApp.identity_provider_class = "fleet_rlm_jupyter.server.oidc.OIDCIdentityProvider"
c.OIDCIdentityProvider.jwks_url = "{issuer.url}/keys"
c.OIDCIdentityProvider.issuer = "{issuer.url}/{{tenantid}}/v2.0"
c.OIDCIdentityProvider.audience = "{AUDIENCE}"
c.OIDCIdentityProvider.tenants = ["{TENANT}"]
c.OIDCIdentityProvider.user_claim = "oid"
c.OIDCIdentityProvider.refresh_seconds = 0
"""
    process = JupyterProcess(tmp_path_factory.mktemp("oidc"), config, probe="/static/favicon.ico")
    yield process
    process.stop()


def knock(server, token, method="GET", path="/identity"):
    return server.ask(method, path, token=None, headers={"Authorization": f"Bearer {token}"})


def test_who_has_a_good_token_is_let_in_under_their_name(server, issuer):
    found = knock(server, issuer.token()).json()
    assert (found["user"], found["name"]) == (f"{TENANT}:ann", "Ann Other")
    told = knock(server, issuer.token(oid="bob"), "POST", "/runs").json()["headers"]["X-Fleet-User"]
    assert told == f"{TENANT}%3Abob"
    connection = server.socket(token=None, header=[f"Authorization: Bearer {issuer.token()}"])
    connection.send("hello")
    assert json.loads(connection.recv())["said"] == "hello"
    connection.close()


def forged(issuer):
    strange, now = rsa.generate_private_key(65537, 2048), int(time.time())
    head, body, signature = issuer.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "oid": "root"}).encode()).rstrip(b"=").decode()
    nothing = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=").decode()
    return {
        "signed by another key": issuer.token(key=strange),
        "another claim under the same signature": f"{head}.{other}.{signature}",
        "no signature": f"{nothing}.{body}.",
        "a shared secret": issuer.token(key="x" * 64, algorithm="HS256"),
        "an unknown key": jwt.encode(claims, strange, algorithm="RS256", headers={"kid": "k9"}),
        "expired": issuer.token(exp=now - 120, iat=now - 700),
        "not yet valid": issuer.token(nbf=now + 600),
        "another audience": issuer.token(aud="other-app"),
        "another issuer": issuer.token(iss="https://evil.example/v2.0"),
        "the issuer of another tenant": issuer.token(iss=f"{issuer.url}/other/v2.0"),
        "a tenant that is not let in": issuer.token(tid="other", iss=f"{issuer.url}/other/v2.0"),
        "no tenant": issuer.token(leave_out=["tid"]),
        "no user": issuer.token(leave_out=["oid"]),
        "no end": issuer.token(leave_out=["exp"]),
        "no audience": issuer.token(leave_out=["aud"]),
        "nonsense": "a.b.c",
        "nothing": "",
    }


def test_nobody_else_is(server, issuer):
    for what, token in forged(issuer).items():
        for method, path in (("GET", "/status"), ("GET", "/anything"), ("POST", "/runs")):
            assert knock(server, token, method, path).status_code == 403, what
    for header in ("Basic YTpi", "token t0ken", "Bearer", issuer.token()):
        answer = server.ask("GET", "/status", token=None, headers={"Authorization": header})
        assert answer.status_code == 403, header
    assert server.ask("GET", "/status", token=None, params={"token": "t0ken"}).status_code == 403
    assert issuer.token()[:40] not in server.log.read_text(), "no token is logged"


def test_a_key_that_the_issuer_has_rotated_in_is_found_and_one_rotated_out_is_forgotten_in_time(server, issuer):
    assert knock(server, issuer.token()).status_code == 200
    issuer.keys["k2"] = rsa.generate_private_key(65537, 2048)
    old = issuer.keys.pop("k1")
    assert knock(server, issuer.token(kid="k2")).status_code == 200
    assert knock(server, issuer.token(kid="k1", key=old)).status_code == 403, "the set without it is the one in force"
    issuer.keys["k1"] = old
