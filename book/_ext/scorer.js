// Chapters before the pages of the package: whoever wants a function searches for its whole name.
var Scorer = {
  score: function (result) { return result[0].startsWith("book/api") ? result[4] / 3 : result[4]; },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
