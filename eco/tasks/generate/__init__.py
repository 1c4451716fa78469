"""What generated sets of tasks are made with: the deal into two splits, expressions, programs, planted bugs."""
