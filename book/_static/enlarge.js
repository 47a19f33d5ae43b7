// Any figure of a page in a window of its own: a click, or Enter on the picture; arrow keys lead to its neighbours.
document.addEventListener("DOMContentLoaded", function () {
  var where = ".inv-figure img, .inv-recorded img, .inv-frames img, img.inv-tile, figure.hero img";
  var pictures = Array.from(document.querySelectorAll(where));
  if (!pictures.length || !window.HTMLDialogElement) return;
  var dialog = document.createElement("dialog");
  dialog.className = "inv-large";
  dialog.setAttribute("aria-label", "Enlarged picture");
  dialog.innerHTML =
    '<form method="dialog"><button type="button" data-step="-1">‹ previous</button>' +
    '<button type="button" data-step="1">next ›</button><button>close</button></form>' +
    "<figure><div><img alt=''></div><figcaption></figcaption></figure>";
  document.body.append(dialog);
  // Labels within a picture are small on a phone: said once, above the first that can be moved.
  var hint = document.createElement("p");
  hint.className = "inv-hint";
  hint.textContent = "Wide pictures can be moved sideways; a tap opens any of them at its own size.";
  var image = dialog.querySelector("img"), caption = dialog.querySelector("figcaption"), at = 0;

  function show(index) {
    at = index;
    var picture = pictures[at];
    picture.loading = "eager";
    image.src = picture.currentSrc || picture.src; // on a phone the form that is shown there
    image.alt = caption.textContent = picture.alt;
    image.classList.toggle("inv-clear", picture.classList.contains("inv-clear"));
    image.style.imageRendering = getComputedStyle(picture).imageRendering;
    image.style.width = Math.max(picture.naturalWidth, 2 * picture.width) + "px";
  }
  // Those in a closed fold are passed over.
  function lead(step) {
    do at = (at + step + pictures.length) % pictures.length;
    while (!pictures[at].getClientRects().length);
    show(at);
  }
  // A picture that a phone would show at less than half its size gets a place to be moved in; charts have a narrow one.
  function widen(picture) {
    if (picture.matches(".inv-tile, .hero img, picture img") || picture.naturalWidth < 1000 || picture.closest(".inv-scroll")) return;
    var place = document.createElement("div");
    place.className = "inv-scroll";
    picture.classList.add("inv-wide");
    if (!hint.isConnected) (picture.closest(".cell, figure") || picture).before(hint);
    picture.replaceWith(place);
    place.append(picture);
    document.dispatchEvent(new CustomEvent("inv-place", { detail: place }));
  }
  pictures.forEach(function (picture) {
    if (picture.complete) widen(picture);
    else picture.addEventListener("load", function () { widen(picture); }, { once: true });
  });
  pictures.forEach(function (picture, index) {
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
    picture.title = "Enlarge";
    picture.addEventListener("click", function () { show(index); dialog.showModal(); });
    picture.addEventListener("keydown", function (event) {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      show(index);
      dialog.showModal();
    });
  });
  dialog.addEventListener("keydown", function (event) {
    if (event.key === "ArrowRight") lead(1);
    if (event.key === "ArrowLeft") lead(-1);
  });
  dialog.addEventListener("click", function (event) {
    var step = event.target.dataset.step;
    if (step) lead(Number(step));
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", function () { pictures[at].focus({ preventScroll: true }); });
});
