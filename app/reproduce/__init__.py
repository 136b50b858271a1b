"""Train the paper's tables and figures again: the experiments as data, their runs, statistics, tables and plots."""
