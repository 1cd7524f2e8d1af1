"""What people see while work runs, on a terminal; imported only when work begins."""
