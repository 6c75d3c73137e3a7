"""The pages of the entrance: plain HTML and one style, with no script and nothing from elsewhere."""

from __future__ import annotations

import base64
from hashlib import sha256
from html import escape
from urllib.parse import quote

from imaging_ai.core.principal import Principal

__all__ = ["HEADERS", "first_page", "forward_page", "home_page", "login_page"]

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 12vh auto; max-width: 22rem; padding: 0 1rem; }
h1, h2 { font-size: 1.4rem; font-weight: 600; }
label, button, .button, input, textarea { display: block; width: 100%; box-sizing: border-box; font: inherit; }
input, textarea { margin: .2rem 0 1rem; padding: .5rem; border: 1px solid #888; border-radius: .3rem; }
button, .button { margin: 1rem 0; padding: .6rem; border: 0; border-radius: .3rem; background: #0b63b6; color: #fff; }
.button { text-align: center; text-decoration: none; }
.alarm { background: #a31515; }
[role=alert] { border-left: .3rem solid #a31515; padding-left: .7rem; }
"""

_POLICY = {
    "default-src": "'none'",
    "style-src": f"'sha256-{base64.b64encode(sha256(_STYLE.encode()).digest()).decode()}'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}

#: Of every page. The policy of the referrer leaves the Origin of a form in place, by which we know our own pages.
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {source}" for name, source in _POLICY.items()),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_NAME = (
    '<label>Name <input name="name" autocomplete="username" required autofocus maxlength="64" value="{name}"></label>'
)
_OLD = (
    '<label>Password <input name="password" type="password" autocomplete="current-password" required maxlength="128">'
    "</label>"
)
_NEW = (
    '<label>Password, 12 characters or more <input name="password" type="password" autocomplete="new-password" '
    'required minlength="12" maxlength="128"></label>'
)
_REASON = '<label>Why? <textarea name="reason" required minlength="5" maxlength="500" rows="3"></textarea></label>'


def login_page(then: str, *, name: str = "", message: str = "", openid: bool = False) -> str:
    """Ask for name and password, or offer the login of the hospital (`openid`), and lead to `then` afterwards."""
    fields = _NAME.format(name=escape(name)) + _OLD + _hidden("next", then)
    elsewhere = f'<a class="button" href="/login/oidc?next={quote(then, safe="")}">Log in with the hospital</a>'
    offered = f"{elsewhere}<h2>Or with a password</h2>" if openid else ""
    return _page("Log in", _alert(message) + offered + _form("/login", fields, "Log in"))


def first_page(link: str, *, name: str = "", message: str = "") -> str:
    """Ask for name and password of the first administrator."""
    told = "<p>Nobody is known to this server yet. Who you say here becomes its administrator.</p>"
    fields = _NAME.format(name=escape(name)) + _NEW + _hidden("link", link)
    return _page("The first administrator", told + _alert(message) + _form("/first", fields, "Begin"))


def home_page(who: Principal, *, viewer: str = "", message: str = "") -> str:
    """Tell who is logged in, and what can be done: see the viewer, log out, ask for emergency access."""
    parts = [_alert(message), f"<p>You are <strong>{escape(who.name)}</strong>, {escape(who.role)}.</p>"]
    if viewer:
        parts.append(f'<p><a href="{escape(viewer)}">Open the viewer</a></p>')
    parts.append(_form("/logout", "", "Log out"))
    if who.emergency:
        parts.append(_alert("Emergency access is in force: what you do with it is looked at afterwards."))
        parts.append(_form("/emergency", _hidden("end", "yes"), "End emergency access"))
    elif who.may("emergency"):
        told = "<h2>Emergency access</h2><p>What you do with it is looked at afterwards.</p>"
        parts.append(told + _form("/emergency", _REASON, "Take emergency access", alarm=True))
    return _page("imaging-ai", "".join(parts))


def forward_page(where: str) -> str:
    """Lead on from a page of ours: a browser that comes from elsewhere shows a strict cookie only then."""
    head = f'<meta http-equiv="refresh" content="0;url={escape(where)}">'
    return _page("imaging-ai", f'<p><a href="{escape(where)}">Go on</a></p>', head)


def _form(action: str, fields: str, button: str, *, alarm: bool = False) -> str:
    kind = ' class="alarm"' if alarm else ""
    return f'<form method="post" action="{action}">{fields}<button{kind}>{button}</button></form>'


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{escape(value)}">'


def _alert(message: str) -> str:
    return f'<p role="alert">{escape(message)}</p>' if message else ""


def _page(title: str, body: str, head: str = "") -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>{head}'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>"
    )
