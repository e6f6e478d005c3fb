// Shows the conversation's answers as the server streams them.

const answers = document.getElementById("answers");
const status = document.getElementById("status");
const LOST_AFTER_MS = 2000; // the server ends streams regularly, and the browser reconnects sooner than this

let lastId = answers.lastElementChild?.dataset.id ?? 0;
let lostTimer;
let source;

const isRunning = () => answers.lastElementChild?.dataset.state === "running";

function connect() {
  source?.close();
  source = new EventSource(`${answers.dataset.events}?after=${lastId}`);
  source.addEventListener("open", () => {
    clearTimeout(lostTimer);
    showStatus();
  });
  source.addEventListener("answer", ({ data, lastEventId }) => {
    lastId = lastEventId;
    keepAtEnd(() => showAnswer(data));
    showStatus();
    closeIfHidden();
  });
  source.addEventListener("text", ({ data }) => keepAtEnd(() => showText(JSON.parse(data))));
  source.addEventListener("error", () => {
    clearTimeout(lostTimer);
    const isFinal = source.readyState === EventSource.CLOSED;
    lostTimer = setTimeout(() => {
      status.textContent = isFinal ? "Connection lost. Reload the page." : "Connection lost. Reconnecting…";
    }, isFinal ? 0 : LOST_AFTER_MS);
  });
}

// The server has sanitized the HTML, which contains what the language model wrote.
function showAnswer(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const answer = template.content.firstElementChild;
  const old = document.getElementById(answer.id);
  const hadFocus = old?.contains(document.activeElement);
  if (old) old.replaceWith(answer);
  else answers.append(answer);
  if (hadFocus) (answer.querySelector("button") ?? document.querySelector("[name=question]")).focus();
}

function showText({ id, finished, last }) {
  const answer = document.getElementById(`answer-${id}`);
  answer.querySelector(".finished").insertAdjacentHTML("beforeend", finished);
  answer.querySelector(".last").innerHTML = last;
}

// Screen readers announce the status. The answer itself changes up to ten times a second.
function showStatus() {
  if (isRunning()) status.textContent = "The assistant is answering.";
  else status.textContent = status.textContent && "The answer has ended.";
}

// Keeps the end of the text visible, unless the reader has scrolled up.
function keepAtEnd(change) {
  const page = document.documentElement;
  const isAtEnd = page.scrollHeight - innerHeight - scrollY < 80;
  change();
  if (isAtEnd) scrollTo(0, page.scrollHeight);
}

// Over HTTP/1.1, all tabs of a browser share six connections to a site, so hidden tabs close theirs.
// They stay connected while an answer is running, because the server would otherwise stop the answer.
function closeIfHidden() {
  if (document.hidden && !isRunning()) source.close();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) closeIfHidden();
  else if (source.readyState === EventSource.CLOSED) connect();
});
addEventListener("pageshow", ({ persisted }) => persisted && connect());
addEventListener("pagehide", () => source.close());
connect();
