"""The claims of the papers, the rules that they are judged by, and the verdicts on them."""
