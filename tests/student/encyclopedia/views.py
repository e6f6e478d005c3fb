"""What a student may hand in: the seven elements of the course's task."""

import random

import nh3
from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from markdown_it import MarkdownIt

from . import util


class EntryForm(forms.Form):
    title = forms.CharField()
    content = forms.CharField(widget=forms.Textarea, strip=False)


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "encyclopedia/index.html", {"entries": util.list_entries(), "heading": "All Pages"})


def entry(request: HttpRequest, title: str) -> HttpResponse:
    content = util.get_entry(title)
    if content is None:
        return render(request, "encyclopedia/not_found.html", {"title": title}, status=404)
    html = nh3.clean(MarkdownIt("commonmark").render(content))
    return render(request, "encyclopedia/entry.html", {"title": title, "html": html})


def search(request: HttpRequest) -> HttpResponse:
    query = request.GET.get("q", "").strip()
    if query and util.get_entry(query) is not None:
        return redirect("entry", query)
    found = [title for title in util.list_entries() if query.casefold() in title.casefold()]
    heading = f"Entries with “{query}” in their title"
    return render(request, "encyclopedia/index.html", {"entries": found, "heading": heading})


def new_page(request: HttpRequest) -> HttpResponse:
    form = EntryForm(request.POST or None)
    if form.is_valid():
        title = form.cleaned_data["title"]
        if util.get_entry(title) is not None:
            form.add_error("title", "There is an entry with this title already.")
        else:
            return save(request, form, title)
    return render(request, "encyclopedia/form.html", {"form": form, "heading": "New page"})


def edit(request: HttpRequest, title: str) -> HttpResponse:
    form = EntryForm(request.POST or {"title": title, "content": util.get_entry(title)})
    form.fields["title"].widget = forms.HiddenInput()
    if request.method == "POST" and form.is_valid():
        return save(request, form, title)
    return render(request, "encyclopedia/form.html", {"form": form, "heading": f"Edit {title}"})


def save(request: HttpRequest, form: EntryForm, title: str) -> HttpResponse:
    try:
        util.save_entry(title, form.cleaned_data["content"])
    except ValueError as error:
        form.add_error("title", str(error))
        return render(request, "encyclopedia/form.html", {"form": form, "heading": "New page"})
    return redirect("entry", title)


def random_page(request: HttpRequest) -> HttpResponseRedirect:
    return redirect("entry", random.choice(util.list_entries()))
