"""The two loops, one over images and one over networks, and what runs on them."""
