"""Recipes: the settings of a compression, as frozen dataclasses that round-trip through TOML."""

from flyweight.recipes.recipe import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "load_recipe", "recipe_names"]
