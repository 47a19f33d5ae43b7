// Names for what the theme leaves nameless, or names otherwise than it is written, for whoever listens to the page.
document.addEventListener("DOMContentLoaded", function () {
  document.querySelectorAll("summary").forEach(function (summary) {
    if (summary.textContent.trim()) summary.removeAttribute("aria-label");
    else summary.setAttribute("aria-label", "Show or hide the pages below");
  });
  document.querySelectorAll(".search-button-field, .theme-switch-button").forEach(function (button) {
    if (button.textContent.trim()) button.removeAttribute("aria-label");
  });

  // A list of references says that it is one, its items something that lists do not hold.
  document.querySelectorAll("[role='list'] > .citation").forEach(function (item) { item.setAttribute("role", "listitem"); });

  // What scrolls sideways, a wide table or equation, is reached by the Tab key and moved by arrow keys. The theme sees to
  // it for outputs without a number only.
  var wide = ".bd-content :is(.text_html, .inv-scroll, .inv-matrix, mjx-container[display='true'])";
  var watch = new ResizeObserver(function () {
    document.querySelectorAll(wide).forEach(function (part) {
      if (part.scrollWidth > part.clientWidth + 1) part.tabIndex = 0;
      else part.removeAttribute("tabindex");
    });
    document.querySelectorAll(signed).forEach(sign);
  });
  // What goes on at a side fades there.
  var signed = ".bd-content :is(.inv-scroll, .pst-scrollable-table-container, div.highlight pre, mjx-container[display='true'])";
  function sign(part) {
    part.classList.toggle("inv-fade-left", part.scrollLeft > 4);
    part.classList.toggle("inv-fade-right", part.scrollWidth - part.clientWidth - part.scrollLeft > 4);
  }
  function follow(part) {
    watch.observe(part);
    part.addEventListener("scroll", function () { sign(part); }, { passive: true });
  }
  document.querySelectorAll(signed).forEach(follow);
  document.addEventListener("inv-place", function (event) { follow(event.detail); });
  // An equation is set later, which changes the size of its place.
  document.querySelectorAll(wide + ", .bd-content div.math").forEach(function (part) { watch.observe(part); });
});
