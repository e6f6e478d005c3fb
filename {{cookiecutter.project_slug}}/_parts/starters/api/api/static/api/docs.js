"use strict";

// Swagger UI uses dark mode while the root element has this class.
const darkMode = matchMedia("(prefers-color-scheme: dark)");
const updateDarkMode = () => document.documentElement.classList.toggle("dark-mode", darkMode.matches);
darkMode.addEventListener("change", updateDarkMode);
updateDarkMode();

const container = document.getElementById("swagger-ui");
SwaggerUIBundle({
  ...JSON.parse(document.getElementById("swagger-settings").textContent),
  domNode: container,
  requestInterceptor: (request) => {
    // Requests that the session authenticates need this header. Requests with a token do not.
    request.headers["X-CSRFToken"] = container.dataset.csrfToken;
    return request;
  },
});
