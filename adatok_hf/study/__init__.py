"""Experiments with controls: is choosing the budget worth something, and are the heads?"""
