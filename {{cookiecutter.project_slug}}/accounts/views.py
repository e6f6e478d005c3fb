from django.shortcuts import render


def locked_out(request, response, credentials):
    """What django-axes answers in the place of `response` to whoever tried too many passwords."""
    text = "There were too many wrong passwords. Try again in a quarter of an hour."
    context = {"title": "Please wait", "text": text}
    return render(request, "accounts/page.html", context, status=429)
