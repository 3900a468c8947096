"""Figures: each draws results that a study has kept. No network is touched here."""
