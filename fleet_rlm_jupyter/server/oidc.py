"""An identity provider for OIDC bearer tokens, for servers behind a sign-in such as Entra: extra [oidc].

`c.ServerApp.identity_provider_class = "fleet_rlm_jupyter.server.oidc.OIDCIdentityProvider"` puts it into force. Nobody
gets in by another way then: Jupyter's own token and cookies are not looked at.
"""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import JupyterHandler
from traitlets import Float, Int, List, Unicode

ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "EdDSA"]
"""Signatures by a key pair only: with HS256 a public key could be taken for a secret, and `none` is no signature."""


class OIDCIdentityProvider(IdentityProvider):
    """Knows who asks by a JWT in `Authorization: Bearer …` that the issuer has signed for this audience."""

    jwks_url = Unicode(help="Where the issuer publishes its keys, e.g. https://…/discovery/v2.0/keys").tag(config=True)
    issuer = Unicode(
        help="The `iss` that is accepted; {tenantid} in it stands for the token's tenant, as Entra publishes it."
    ).tag(config=True)
    audience = Unicode(help="The `aud` that is accepted: the id of this application.").tag(config=True)
    tenants: List[str] = List(
        Unicode(), help="Tenants (`tid`) that are let in; needed where `issuer` holds {tenantid}, else all where empty."
    ).tag(config=True)
    user_claim = Unicode("sub", help="The claim that names a user, within the tenant; Entra: oid.").tag(config=True)
    leeway_seconds = Int(30, help="How far clocks may be apart.").tag(config=True)

    refresh_seconds = Float(
        30.0, help="How often at most the keys are fetched anew for a token whose key is not among them."
    ).tag(config=True)

    _keys: jwt.PyJWKClient | None = None

    async def get_user(self, handler: JupyterHandler) -> User | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The user of the token; None, and with it 403, where there is none or it is not good."""
        scheme, _, token = handler.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        try:
            claims = await asyncio.to_thread(self._claims, token.strip())
        except jwt.PyJWTError as err:
            handler.log.warning("A bearer token is refused: %s", err)  # the reason, never the token
            return None
        handler._token_authenticated = True  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
        return self._user(claims)

    @property
    def auth_enabled(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return True

    @property
    def login_available(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    def is_token_authenticated(self, handler: Any) -> bool:
        """A page of another origin cannot send the header, so neither origin nor XSRF has to be looked at."""
        return bool(getattr(handler, "_token_authenticated", False))

    def _claims(self, token: str) -> dict[str, Any]:
        """What the token says, once everything about it is right. Raises PyJWTError."""
        if not (self.jwks_url and self.issuer and self.audience):
            raise jwt.InvalidTokenError("c.OIDCIdentityProvider needs jwks_url, issuer and audience")
        if "{tenantid}" in self.issuer and not self.tenants:
            raise jwt.InvalidTokenError("an issuer of many tenants needs c.OIDCIdentityProvider.tenants")
        if self._keys is None:
            # Keys are kept for five minutes; one that is not among them is looked for before that: keys rotate.
            self._keys = jwt.PyJWKClient(
                self.jwks_url, lifespan=300, timeout=10, cooldown_duration=self.refresh_seconds
            )
        key = self._keys.get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token,
            key.key,
            algorithms=ALGORITHMS,
            audience=self.audience,
            leeway=self.leeway_seconds,
            options={"require": ["exp", "iat", "iss", "aud", self.user_claim], "verify_iss": False},
        )
        tenant = str(claims.get("tid", ""))
        if self.tenants and tenant not in self.tenants:
            raise jwt.InvalidTokenError("the tenant is not let in")
        if claims["iss"] != self.issuer.replace("{tenantid}", tenant):
            raise jwt.InvalidIssuerError("another issuer")
        return claims

    def _user(self, claims: dict[str, Any]) -> User:
        # Users of two tenants may have one name: they are two people.
        name = ":".join(part for part in (str(claims.get("tid", "")), str(claims[self.user_claim])) if part)
        shown = str(claims.get("name") or claims.get("preferred_username") or name)
        return User(username=name, name=shown, display_name=shown)
