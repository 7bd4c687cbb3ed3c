"""This library's solvers beside other implementations', on the same maps in the same process."""
