"""Trained networks that come with the package, weights packed by their codes; index.json lists them."""
