// Names for what the theme leaves nameless, or names otherwise than it is written, for whoever listens to the page.
document.addEventListener("DOMContentLoaded", function () {
  document.querySelectorAll("summary").forEach(function (summary) {
    if (summary.textContent.trim()) summary.removeAttribute("aria-label");
    else summary.setAttribute("aria-label", "Show or hide the pages below");
  });
  document.querySelectorAll(".search-button-field, .theme-switch-button").forEach(function (button) {
    if (button.textContent.trim()) button.removeAttribute("aria-label");
  });
});
