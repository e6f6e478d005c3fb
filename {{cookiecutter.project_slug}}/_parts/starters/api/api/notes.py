"""The user's notes. Each query is limited to them, so another user's note is a 404."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Literal

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import aget_object_or_404
from django.urls import reverse
from django.utils import timezone
from ninja import FilterLookup, FilterSchema, Query, Router, Schema
from ninja.pagination import LimitOffsetPagination, paginate
from pydantic import ConfigDict, Field

from {{ cookiecutter.project_slug }}.serving.threads import current_request_thread

from .auth import AuthenticatedRequest
from .models import Note

NO_NUL = r"^[^\x00]*$"  # PostgreSQL cannot store NUL
MAX_ID = 2**63 - 1
EXPORT_BATCH_ROWS = 1000

router = Router(tags=["notes"])

NoteId = Annotated[int, Field(ge=1, le=MAX_ID)]
Order = Literal["created", "-created", "title", "-title"]


class NoteIn(Schema):
    # Strict: a boolean must be a JSON boolean, not a string such as "yes".
    model_config = ConfigDict(extra="forbid", strict=True)

    title: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    text: Annotated[str, Field(max_length=10_000, pattern=NO_NUL)] = ""
    pinned: bool = False


class NoteOut(Schema):
    id: int
    title: str
    text: str
    pinned: bool
    created: datetime
    changed: datetime


class NoteFilters(FilterSchema):
    search: Annotated[
        str | None,
        Field(min_length=1, max_length=100, pattern=NO_NUL),
        FilterLookup(["title__icontains", "text__icontains"]),
    ] = None
    pinned: bool | None = None


class Pages(LimitOffsetPagination):
    class Input(LimitOffsetPagination.Input):
        limit: int = Field(20, ge=1, le=100)
        offset: int = Field(0, ge=0, le=1_000_000)


@router.get("", response=list[NoteOut])
@paginate(Pages)
async def list_notes(
    request: AuthenticatedRequest, filters: Query[NoteFilters], order: Order = "-created"
) -> QuerySet[Note]:
    return filters.filter(Note.objects.filter(owner=request.auth)).order_by(order, "id")


@router.post("", response={201: NoteOut})
async def create_note(request: AuthenticatedRequest, data: NoteIn, response: HttpResponse) -> Note:
    note = await Note.objects.acreate(owner=request.auth, **data.model_dump())
    response["Location"] = reverse("api:read_note", args=[note.id])
    return note


@router.get("/export", response={200: None})
async def export_notes(request: AuthenticatedRequest) -> StreamingHttpResponse:
    """Stream all notes, oldest first, as one JSON object per line, in constant memory."""
    lines = stream_lines(request.auth.pk)
    return StreamingHttpResponse(lines, content_type="application/x-ndjson")


@router.get("/{id}", response=NoteOut)
async def read_note(request: AuthenticatedRequest, id: NoteId) -> Note:
    return await aget_object_or_404(Note, id=id, owner=request.auth)


@router.put("/{id}", response=NoteOut)
async def replace_note(request: AuthenticatedRequest, id: NoteId, data: NoteIn) -> Note:
    # Not `asave`, which would recreate a note that was deleted in the meantime.
    note = Note.objects.filter(id=id, owner=request.auth)
    await note.aupdate(**data.model_dump(), changed=timezone.now())
    return await aget_object_or_404(note)


@router.delete("/{id}", response={204: None})
async def delete_note(request: AuthenticatedRequest, id: NoteId) -> None:
    note = await aget_object_or_404(Note, id=id, owner=request.auth)
    await note.adelete()


async def stream_lines(owner_id: int) -> AsyncIterator[bytes]:
    """Yield one query's lines at a time, so that nothing stays open while a client reads."""
    if request_thread := current_request_thread.get():
        request_thread.release()  # the queries run in background threads from here on
    last_id: int | None = 0
    while last_id is not None:
        lines, last_id = await sync_to_async(get_batch)(owner_id, last_id)
        yield lines


def get_batch(owner_id: int, after_id: int) -> tuple[bytes, int | None]:
    """Return the next notes as lines, and the id of the last one, or None if there are no more."""
    notes = Note.objects.filter(owner=owner_id, id__gt=after_id).order_by("id")[:EXPORT_BATCH_ROWS]
    lines = "".join(f"{NoteOut.from_orm(note).model_dump_json()}\n" for note in notes)
    return lines.encode(), notes[len(notes) - 1].id if len(notes) == EXPORT_BATCH_ROWS else None
