"""The networks of the book: classifiers here, inverses, generators and adversaries beside them."""
