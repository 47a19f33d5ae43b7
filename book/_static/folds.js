// A link to a place within a fold opens it.
(function () {
  function open() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    var closed = "details:not([open])", fold = target && target.closest(closed);
    if (!fold) return;
    for (; fold; fold = fold.closest(closed)) fold.open = true;
    target.scrollIntoView();
  }
  document.addEventListener("DOMContentLoaded", open);
  window.addEventListener("hashchange", open);
})();
