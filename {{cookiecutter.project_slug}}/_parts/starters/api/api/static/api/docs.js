"use strict";

// Swagger UI is dark when the page has this class.
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const followDarkMode = () => document.documentElement.classList.toggle("dark-mode", darkMode.matches);
darkMode.addEventListener("change", followDarkMode);
followDarkMode();

const container = document.getElementById("swagger-ui");
SwaggerUIBundle({
  ...JSON.parse(document.getElementById("swagger-settings").textContent),
  domNode: container,
  requestInterceptor: (request) => {
    // For those who are signed in; a token needs none.
    request.headers["X-CSRFToken"] = container.dataset.csrfToken;
    return request;
  },
});
