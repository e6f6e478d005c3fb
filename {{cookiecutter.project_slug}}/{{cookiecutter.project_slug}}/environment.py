"""The variables of the environment. A wrong one ends the start with a sentence that says what is accepted."""

import re
from ipaddress import ip_network
from urllib.parse import urlsplit

import environ

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Environment(environ.Env):
    """django-environ, strict: it would take `maybe` for false, and -1 for a number of threads.

    A variable that is empty counts as not set. Wrong ones raise SystemExit.
    """

    def required(self, var, advice, default=""):
        value = self.str(var, default="").strip() or default
        if not value:
            raise SystemExit(f"{var} is not set. {advice}")
        return value

    def bool(self, var, default):
        value = self.str(var, default="").strip().lower()
        if value and value not in TRUE + FALSE:
            refuse(var, value, "true or false")
        return value in TRUE if value else default

    def int(self, var, default, most):
        value = self.str(var, default="").strip()
        if value and not (re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= most):
            refuse(var, value, f"a whole number from 1 to {most}")
        return int(value or default)

    def one_of(self, choices, var):
        value = self.str(var, default="").strip() or choices[0]
        if value not in choices:
            refuse(var, value, " or ".join(choices))
        return value

    def hosts(self, var):
        pattern = r"\*|\.?[\w.-]+|\[[0-9A-Fa-f:]+\]"
        return self.words(var, pattern, "names of hosts, without scheme or port")

    def origins(self, var):
        return self.words(var, r"https?://[^/\s]+", "origins such as https://www.example.com")

    def script_name(self, var):
        value = self.str(var, default="").strip().rstrip("/")
        if value and not re.fullmatch(r"(/[\w.~-]+)+", value):
            refuse(var, value, "a path such as /app")
        return value

    def words(self, var, pattern, accepted):
        words = [word.strip() for word in self.str(var, default="").split(",") if word.strip()]
        for word in words:
            if not re.fullmatch(pattern, word):
                refuse(var, word, f"{accepted}, separated by commas")
        return words

    def networks(self, var, default):
        accepted = "addresses or networks such as 10.0.0.0/8, or *"
        words = self.words(var, r"\S+", accepted) or default
        for word in words:
            try:
                word == "*" or ip_network(word)
            except ValueError:
                refuse(var, word, f"{accepted}, separated by commas")
        return words

    def service(self, var, schemes, default=""):
        """A URL, which may hold a password: a wrong one is not shown."""
        url = self.str(var, default="").strip() or default
        if url:
            try:
                known = urlsplit(url).scheme in schemes and "://" in url
                urlsplit(url).port  # noqa: B018 (raises ValueError if it is no port)
            except ValueError:
                known = False
            if not known:
                accepted = " or ".join(f"{scheme}://…" for scheme in schemes)
                raise SystemExit(f"{var} cannot be used. Accepted: a URL, {accepted}")
        return url


def refuse(var, value, accepted):
    raise SystemExit(f"{var}={value!r} cannot be used. Accepted: {accepted}.")
