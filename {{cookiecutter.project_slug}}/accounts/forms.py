"""The forms for a new account and for a new password.

Neither the response to a password reset nor its duration reveals whether an account exists.
"""

from collections.abc import Iterator
{% if cookiecutter.starter != "live" %}
from functools import partial
{% endif %}
from typing import Any

from django.contrib.auth import forms, get_user_model
from django.contrib.sites.shortcuts import get_current_site
from django.core.cache import cache
{% if cookiecutter.starter == "live" and cookiecutter.django_version == "6.1" %}
from django.tasks import task
{% endif %}
from django.urls import get_script_prefix, set_script_prefix
from django.utils import translation
{% if cookiecutter.starter == "live" and cookiecutter.django_version == "5.2" %}
from django_tasks import task
{% endif %}
{% if cookiecutter.starter != "live" %}

from {{ cookiecutter.project_slug }}.serving.deferred_calls import defer
{% endif %}

MAX_MAILS_PER_HOUR = 3  # to one user


class SignUpForm(forms.UserCreationForm):
    class Meta(forms.UserCreationForm.Meta):
        model = get_user_model()
        fields = (model.USERNAME_FIELD, *model.REQUIRED_FIELDS)
        help_texts = {"email": "If you forget your password, a reset link is sent to this address."}


class PasswordResetForm(forms.PasswordResetForm):
    def save(self, *args: Any, **options: Any) -> None:
        """Look up the address and send emails after the response, also for unknown addresses."""
        site = get_current_site(options.pop("request"))
        del options["token_generator"]  # Django's
        options["domain_override"] = site.domain
        context = options["extra_email_context"] or {}
        options["extra_email_context"] = {"site_name": site.name, **context}
        email, language = self.cleaned_data["email"], translation.get_language()
{% if cookiecutter.starter == "live" %}
        send_mails.enqueue(email, language, get_script_prefix(), options)
{% else %}
        defer(partial(send_mails, email, language, get_script_prefix(), options))
{% endif %}

    def get_users(self, email: str) -> Iterator[Any]:
        for user in super().get_users(email):
            if not exceeds_limit(f"password-resets-of-{user.pk}", MAX_MAILS_PER_HOUR):
                yield user


{% if cookiecutter.starter == "live" %}
@task
{% endif %}
def send_mails(
    email: str, language: str | None, script_prefix: str, options: dict[str, Any]
) -> None:
    """Send a reset link to each user with this address."""
    set_script_prefix(script_prefix)
    form = PasswordResetForm({"email": email})
    if form.is_valid():
        with translation.override(language):
            super(PasswordResetForm, form).save(**options)


def exceeds_limit(key: str, limit_per_hour: int) -> bool:
    """Increment the counter of this key, and return whether it exceeds the limit per hour."""
    cache.add(key, 0, timeout=60 * 60)
    try:
        return cache.incr(key) > limit_per_hour
    except ValueError:  # the counter has just expired
        return False
