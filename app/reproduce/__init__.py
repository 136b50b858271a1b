"""The paper's tables and figures trained again: the experiments as data, their runs, statistics, tables and plots."""
