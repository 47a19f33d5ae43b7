// Paper is white: a page that is read in the dark theme is printed in the light one.
(function () {
  var page = document.documentElement, before;
  window.addEventListener("beforeprint", function () {
    before = page.dataset.theme;
    page.dataset.theme = "light";
  });
  window.addEventListener("afterprint", function () {
    page.dataset.theme = before;
  });
})();
