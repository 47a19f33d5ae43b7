// The contents beside a long page move to the section that is read.
document.addEventListener("DOMContentLoaded", function () {
  var column = document.querySelector(".bd-sidebar-secondary");
  if (!column) return;
  new MutationObserver(function () {
    var read = Array.from(column.querySelectorAll(".nav-link.active")).pop();
    if (!read) return;
    var box = column.getBoundingClientRect(), line = read.getBoundingClientRect();
    if (line.top < box.top || line.bottom > Math.min(box.bottom, innerHeight)) column.scrollTop += line.top - box.top - box.height / 2;
  }).observe(column, { subtree: true, attributes: true, attributeFilter: ["class"] });
});
