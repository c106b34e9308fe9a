"""The template language: Liquid from python-liquid, within bounds, and with our rules for what is missing."""
