"""Tasks are data with known yardsticks: what a memoryless guess scores and, where derived, the optimum."""
