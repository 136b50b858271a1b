"""The paper's tables and figures run again: cells as data, runs over the cores, statistics, tables, plots."""
