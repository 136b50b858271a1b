"""Helpers that several tests share: starting the program, jobs with faults, and data made for tests."""
