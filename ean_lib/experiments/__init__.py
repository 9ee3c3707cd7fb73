"""Experiments: tasks, recipes, the steps of the method, truth tables and reports."""
