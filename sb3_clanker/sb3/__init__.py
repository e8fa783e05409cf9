"""Stable-Baselines3's own objects, read and never changed."""
