"""`make tasks`: every task trained, compared with its ablation, drawn and measured."""
