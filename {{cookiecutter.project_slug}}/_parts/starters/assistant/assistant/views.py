from asgiref.sync import sync_to_async
from django import forms
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import aget_object_or_404, redirect
from django.template.response import TemplateResponse

from {{ cookiecutter.project_slug }}.lifespan import state
from {{ cookiecutter.project_slug }}.serving.streams import EventStreamResponse, get_last_event_id

from .events import stream
from .models import MAX_QUESTION_CHARACTERS, Answer, Conversation, LimitReached

MAX_CONVERSATIONS_SHOWN = 100


class QuestionForm(forms.Form):
    question = forms.CharField(
        max_length=MAX_QUESTION_CHARACTERS, widget=forms.Textarea({"rows": 3})
    )


async def index(request: HttpRequest) -> HttpResponse:
    """Show the user's conversations. A question starts a new one."""
    user = await request.auser()
    if not user.is_authenticated:
        if request.method == "POST":
            return redirect_to_login(request.path)
        return TemplateResponse(request, "assistant/index.html")
    conversations = Conversation.objects.filter(user=user)[:MAX_CONVERSATIONS_SHOWN]
    return await respond(request, "index", Conversation(user=user), conversations=conversations)


@login_required
async def conversation(request: HttpRequest, id: int) -> HttpResponse:
    """Show a conversation. A POST asks a question, stops the answer, or tries again."""
    conversation = await get_conversation(request, id)
    if request.POST.get("action") == "stop":
        await send_to_running(conversation, "stop")
        return redirect(conversation)
    await send_to_running(conversation, "load")
    answers = conversation.answers.all()
    return await respond(request, "conversation", conversation, answers=answers)


@login_required
async def events(request: HttpRequest, id: int) -> EventStreamResponse:
    conversation = await get_conversation(request, id)
    return EventStreamResponse(stream(conversation.id, get_last_event_id(request) or 0))


async def get_conversation(request: HttpRequest, id: int) -> Conversation:
    return await aget_object_or_404(Conversation, id=id, user=(await request.auser()).pk)


async def send_to_running(conversation: Conversation, command: str) -> None:
    await sync_to_async(Answer.mark_lost)()
    async for answer in conversation.answers.filter(state=Answer.State.RUNNING):
        await (await state.get()).answers.send(answer.id, command)


async def respond(
    request: HttpRequest, template: str, conversation: Conversation, **context: object
) -> HttpResponse:
    """Start the answer that the form requests, or show the page."""
    form, limit = QuestionForm(request.POST or None), None
    is_retry = request.POST.get("action") == "retry"
    if is_retry or form.is_valid():
        question = "" if is_retry else form.cleaned_data["question"]
        try:
            answer, messages = await sync_to_async(Answer.start)(conversation, question)
        except LimitReached as error:
            form, limit = QuestionForm(initial={"question": question}), error
        else:
            await (await state.get()).answers.start(answer, messages)
            return redirect(f"{answer.conversation.get_absolute_url()}#answer-{answer.id}")
    context |= {"conversation": conversation, "form": form, "limit": limit}
    status = 429 if limit else 400 if form.errors else 200
    return TemplateResponse(request, f"assistant/{template}.html", context, status=status)
