"""Ours against plain code, what a run costs, and what only GPUs can show."""
