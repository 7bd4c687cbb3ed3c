"""What the paper claims of solvers, gradients and fixed points, measured on small models: what no suite holds."""
