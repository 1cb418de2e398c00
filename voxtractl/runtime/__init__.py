"""Calls: Asterisk's events become sessions, handlers get them, every session ends once."""
