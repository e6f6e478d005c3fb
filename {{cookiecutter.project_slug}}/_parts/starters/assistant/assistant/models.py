from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models, transaction
from django.db.models import Q, Sum
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from .markdown import render, split_last_block

INSTRUCTIONS = "You are a helpful assistant. Write Markdown."
MAX_QUESTION_CHARACTERS = 8000
MAX_HISTORY_TOKENS = 6000  # of the earlier questions and answers that are sent with a question
MAX_ANSWER_TOKENS = 2000
MAX_RUNNING_PER_USER, MAX_RUNNING_PER_SITE = 3, 1000
MAX_TOKENS_PER_USER, MAX_TOKENS_PER_SITE = 200_000, 10_000_000  # in 24 hours
# Each process updates `seen` of its running answers every 5 seconds, until it is killed.
LOST_AFTER = timedelta(seconds=30)


class LimitReached(Exception):
    """An answer cannot be started. The exception's message is shown to the user."""


class Conversation(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    title = models.CharField(max_length=100)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("conversation", args=[self.id])


class Answer(models.Model):
    """A question and its answer. `started` identifies the attempt at an answer."""

    class State(models.TextChoices):
        RUNNING = "running"
        COMPLETE = "complete"
        STOPPED = "stopped"
        FAILED = "failed"

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="answers")
    question = models.TextField()
    text = models.TextField(blank=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.RUNNING)
    note = models.CharField(max_length=200, blank=True)  # the reason why the text is not complete
    # The sum of all attempts. A running attempt counts as the maximum that it can use.
    tokens = models.PositiveIntegerField(default=0)
    started = models.DateTimeField(db_index=True)
    seen = models.DateTimeField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["state", "seen"], name="answer_state_seen")]

    def __str__(self) -> str:
        return self.question[:50]

    def get_parts(self) -> list[SafeString]:
        """Return the text as HTML. The last block of a running answer is a separate part."""
        is_running = self.state == self.State.RUNNING
        parts = split_last_block(self.text) if is_running else [self.text]
        return [render(part) for part in parts]

    @classmethod
    @transaction.atomic
    def start(cls, conversation: Conversation, question: str = "") -> tuple["Answer", list[Any]]:
        """Store a question with a running answer. Without a question, retry the last answer.

        Returns the answer and the messages to send to the model. Raises LimitReached.
        """
        # All processes share this lock, so that no two count at the same time.
        get_user_model().objects.select_for_update(no_key=True).order_by("pk").first()
        cls.mark_lost()
        if conversation.pk is None:
            conversation.title = " ".join(question.split())[:80]
            conversation.save()
        answer = cls(conversation=conversation, question=question)
        if not question:
            answer = conversation.answers.latest("id")
            if answer.state == cls.State.COMPLETE:
                raise LimitReached("The last answer is complete. Ask another question.")
        messages = answer.get_messages()
        prompt_tokens = sum(estimate_tokens(message["content"]) for message in messages)
        answer.tokens += prompt_tokens + MAX_ANSWER_TOKENS
        now, of_user = timezone.now(), Q(conversation__user=conversation.user_id)
        running = cls.objects.filter(state=cls.State.RUNNING)
        if running.filter(conversation=conversation).exists():
            raise LimitReached("Your last question is still being answered. Stop it first.")
        if running.filter(of_user).count() >= MAX_RUNNING_PER_USER:
            raise LimitReached(f"You have {MAX_RUNNING_PER_USER} running answers. Stop one first.")
        if running.count() >= MAX_RUNNING_PER_SITE:
            raise LimitReached("The assistant is busy. Try again in a moment.")
        recent = cls.objects.filter(started__gt=now - timedelta(days=1)).exclude(pk=answer.pk)
        used = recent.aggregate(
            by_user=Sum("tokens", filter=of_user, default=0), by_site=Sum("tokens", default=0)
        )
        if used["by_user"] + answer.tokens > MAX_TOKENS_PER_USER:
            raise LimitReached("You have reached your limit for 24 hours. Try again later.")
        if used["by_site"] + answer.tokens > MAX_TOKENS_PER_SITE:
            raise LimitReached("The assistant has reached its limit for 24 hours. Try again later.")
        answer.state, answer.text, answer.note = cls.State.RUNNING, "", ""
        answer.started = answer.seen = now
        answer.save()
        return answer, messages

    @classmethod
    def mark_lost(cls) -> None:
        """Mark running answers whose process was killed."""
        lost = cls.objects.filter(state=cls.State.RUNNING, seen__lt=timezone.now() - LOST_AFTER)
        if lost.exists():  # even an update that changes nothing takes a lock
            lost.update(state=cls.State.FAILED, note="The server was interrupted while answering.")

    def get_messages(self) -> list[Any]:
        """Return the instructions, as much of the conversation as fits, and the question."""
        messages, tokens = [{"role": "user", "content": self.question}], 0
        earlier = self.conversation.answers.exclude(text="").exclude(pk=self.pk)
        for answer in earlier.reverse():
            tokens += estimate_tokens(answer.question + answer.text)
            if tokens > MAX_HISTORY_TOKENS:
                break
            messages.append({"role": "assistant", "content": answer.text})
            messages.append({"role": "user", "content": answer.question})
        return [{"role": "system", "content": INSTRUCTIONS}, *reversed(messages)]


def estimate_tokens(text: str) -> int:
    """Return the approximate number of tokens. Only the model's server knows the exact number."""
    return len(text) // 4
