// Lets Enter send the question; Shift and Enter start a new line.

const question = document.querySelector("[name=question]");

question?.addEventListener("keydown", (event) => {
  // While a character is composed, as in Japanese, Enter chooses it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  question.form.requestSubmit();
});
