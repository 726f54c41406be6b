"""Recipes: one TOML file a published row or a training of our own."""
