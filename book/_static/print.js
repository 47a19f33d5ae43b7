// Paper is white: a page that is read in the dark theme is printed in the light one. Nor can paper be unfolded.
(function () {
  var page = document.documentElement, before, folds = [];
  window.addEventListener("beforeprint", function () {
    before = page.dataset.theme;
    page.dataset.theme = "light";
    folds = Array.from(document.querySelectorAll("details.inv-board:not([open])"));
    folds.forEach(function (fold) { fold.open = true; });
  });
  window.addEventListener("afterprint", function () {
    page.dataset.theme = before;
    folds.forEach(function (fold) { fold.open = false; });
  });
})();
