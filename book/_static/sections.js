// Results of a search lead to the section that holds the words, where the page's text can be read.
document.addEventListener("DOMContentLoaded", function () {
  var results = document.getElementById("search-results");
  if (!results || !window.DOMParser) return;
  var words = (new URLSearchParams(location.search).get("q") || "").toLowerCase().split(/\s+/).filter(Boolean);
  var pages = {};

  function text(section) {
    var own = section.cloneNode(true);
    own.querySelectorAll("section").forEach(function (inner) { inner.remove(); });
    return own.textContent.toLowerCase();
  }
  function best(page) {
    var found = null, most = 0;
    page.querySelectorAll("section[id] section[id]").forEach(function (section) {
      var content = text(section);
      var count = words.filter(function (word) { return content.includes(word); }).length;
      if (count > most) { most = count; found = section; }
    });
    return found;
  }
  function lead(link) {
    var address = link.href.split("#")[0].split("?")[0];
    if (link.dataset.section || link.hash) return;
    link.dataset.section = "…";
    pages[address] = pages[address] || fetch(address).then(function (answer) { return answer.text(); });
    pages[address].then(function (source) {
      var section = best(new DOMParser().parseFromString(source, "text/html"));
      var heading = section && section.querySelector("h2, h3, h4");
      if (!heading) return;
      link.href = address + "#" + section.id;
      link.dataset.section = section.id;
      link.append(" › " + heading.firstChild.textContent.trim() + heading.textContent.slice(heading.firstChild.textContent.length).replace(/#$/, ""));
    }).catch(function () {});  // pages opened from disk cannot be read: the link leads to the page's top
  }
  new MutationObserver(function () { results.querySelectorAll("li a[href]").forEach(lead); })
    .observe(results, { childList: true, subtree: true });
});
