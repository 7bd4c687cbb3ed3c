"""`python -m bench check FILE.py`: a user's cell, model, solver or task held to the contract that the project's own are held to."""
