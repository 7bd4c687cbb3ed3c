"""Many runs: the plan of a suite, the coordinator, and the engines that run jobs.

Imports training and what that imports.
"""
