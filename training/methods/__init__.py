"""Preference-training methods, one file each."""
