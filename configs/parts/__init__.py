"""Sections shared by the configs: functions that return ConfigDicts."""
