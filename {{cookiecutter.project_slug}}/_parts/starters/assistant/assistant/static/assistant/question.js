// Sends the question when the user presses Enter. Shift+Enter starts a new line.

const question = document.querySelector("[name=question]");

question?.addEventListener("keydown", (event) => {
  // In an input method, such as for Japanese, Enter chooses a character.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  question.form.requestSubmit();
});
