document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("#new-post");
  form?.addEventListener("submit", event => {
    event.preventDefault();
    fetch(form.action, {
      method: "POST",
      headers: {"X-CSRFToken": form.elements.csrfmiddlewaretoken.value},
      body: JSON.stringify({text: form.elements.text.value}),
    })
      .then(response => response.json())
      .then(post => {
        const item = document.createElement("li");
        item.textContent = `${post.author}: ${post.text}`;
        document.querySelector("#posts").prepend(item);
      });
  });
  document.querySelectorAll("[data-like]").forEach(button => {
    button.onclick = () => fetch(button.dataset.like, {method: "PUT"})
      .then(response => response.json())
      .then(result => { button.textContent = result.likes; });
  });
});
