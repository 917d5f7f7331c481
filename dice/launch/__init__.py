"""Processes, devices, machines and the terminal: how a stage's work is started and watched."""
